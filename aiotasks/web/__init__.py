"""Jobs in a browser: plan, start, watch and report dedupe jobs, in a web application or alone.

``jobs_app`` returns an application to mount, and ``serve`` runs one. This needs the extra ``web``.
"""

from ._app import jobs_app
from ._serve import serve


__all__ = ["jobs_app", "serve"]
