"""Jobs in a browser: plan, start, watch and report dedupe jobs, in a web application or alone.

``jobs_app`` returns an application to mount, and ``serve`` runs one; ``expiring_link`` gives a
browser access to one with a token. ``serve_job`` shows a job beside its run, and ``report_page``
out of its ledger alone. This needs the extra ``web``.
"""

from ._app import jobs_app
from ._export import report_page
from ._server import Serving, expiring_link, serve
from ._single_job import JobPage, serve_job


__all__ = ["JobPage", "Serving", "expiring_link", "jobs_app", "report_page", "serve", "serve_job"]
