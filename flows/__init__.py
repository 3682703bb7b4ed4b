"""Floor 3: batch jobs; the only place that knows Prefect."""

from .quiet import settle

# Prefect reads its settings when it is first imported, so they are settled before any module here can import it.
settle()
