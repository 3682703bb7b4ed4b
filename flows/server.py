"""The Prefect server that somebody has set up: it must answer before anything is asked of it. Starts none."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from ..anygpt_model.errors import SettingsError


def check_server() -> None:
    """Raises SettingsError for a configured server that does not answer; without one there is nothing to check."""
    address = PREFECT_API_URL.value()
    if not address:
        return
    try:
        with get_client(sync_client=True) as client:
            answer = client.api_healthcheck()
    except Exception as error:
        # Whatever keeps a client from being made (a wrong URL, no route) is the address's fault to the operator.
        answer = error
    if answer is not None:
        raise SettingsError(
            f"The Prefect server at {address} does not answer; start it with `prefect server start`, "
            "correct PREFECT_API_URL, or unset it to convert without one."
        )
