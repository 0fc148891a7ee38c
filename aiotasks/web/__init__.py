"""Jobs in a browser: plan, start, watch and report dedupe jobs, in a web application or alone.

``jobs_app`` returns an application to mount, and ``serve`` runs one; ``serve_job`` shows a job
beside its run, and ``report_page`` out of its ledger alone. This needs the extra ``web``.
"""

from ._app import jobs_app
from ._beside import JobPage, serve_job
from ._saved import report_page
from ._serve import serve


__all__ = ["JobPage", "jobs_app", "report_page", "serve", "serve_job"]
