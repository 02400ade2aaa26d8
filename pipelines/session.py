"""A session with an API server of Kubeflow Pipelines: what kind it is, and how it is asked."""

from collections.abc import Callable, Iterator
from typing import Any

import kfp_server_api as kfp

from pipelines import versions
from pipelines.answers import read_json
from pipelines.api import Api, ApiError
from pipelines.connection import Connection

_IDENTITIES = {
    kfp.V2beta1Experiment: "experiment_id",
    kfp.V2beta1Pipeline: "pipeline_id",
    kfp.V2beta1PipelineVersion: "pipeline_version_id",
    kfp.V2beta1RecurringRun: "recurring_run_id",
    kfp.V2beta1Run: "run_id",
}
"""Fields without which an answer tells nothing; to the SDK all of them are optional."""


class Session:
    """A session with an API server.

    Args:
        connection: address, namespace, credential.

    Attributes:
        namespace: that requests name; None where the server is one user's.
        version: of the server, major and minor number; None where it does not tell.

    Raises:
        ApiError: at once, where the server cannot be reached, refuses, is none of Kubeflow Pipelines or too old.
    """

    def __init__(self, connection: Connection) -> None:
        self._api = Api(connection)
        self._connection = connection
        health = self._health()
        self.namespace = self._namespace(bool(health["multi_user"]))
        self.version = versions.parse(str(health.get("tag_name") or health.get("apiServerTagName") or ""))
        if self.version and self.version < versions.OLDEST:
            raise ApiError(
                f"{connection.host} is Kubeflow Pipelines {versions.label(self.version)}; "
                f"{versions.label(versions.OLDEST)} or newer is needed, as older ones start no step whose optional "
                "secret is missing."
            )

    def _health(self) -> dict[str, Any]:
        """What the server says about itself; the UI's server and the API's own name things differently."""
        asked = self._connection
        try:
            health: dict[str, Any] = read_json(self._api.request("GET", f"{asked.host}/apis/v2beta1/healthz").data)
        except ApiError as error:
            if error.status in (404, 405):
                raise ApiError(
                    f"{asked.host}: there is no Kubeflow Pipelines API below this address; it may lack its path, e.g. "
                    "https://kubeflow.example.com/pipeline.",
                    error.status,
                ) from None
            raise
        if health.get("multi_user") is None:
            raise ApiError(f"{asked.host} is a server, but not of Kubeflow Pipelines; check --host or KFP_ENDPOINT.")
        return health

    def _namespace(self, of_several_users: bool) -> str | None:
        """The namespace that requests name: only where several users share the server, which then asks for one."""
        asked = self._connection
        if of_several_users and not asked.namespace:
            raise ApiError(f"{asked.host} serves several users: give --namespace, the name of your Kubeflow profile.")
        return asked.namespace if of_several_users else None

    def _made_once(self, create: Callable[..., Any], body: Any, find: Callable[[], str | None]) -> str:
        """Make a thing that has its name for itself; where another client was quicker, take that one's."""
        try:
            made = self._call(create, body)
            return str(getattr(made, _IDENTITIES[type(made)]))
        except ApiError as error:
            if error.status == 409 and (known := find()):
                return known
            raise

    def _in_namespace(self) -> dict[str, str]:
        return {"namespace": self.namespace} if self.namespace else {}

    def _pages(self, listing: Callable[..., Any], field: str, *given: Any, **query: Any) -> Iterator[Any]:
        token, seen = "", {""}
        while True:
            page = self._call(listing, *given, **query, **({"page_token": token} if token else {}))
            for row in getattr(page, field) or []:
                yield self._checked(row)
            token = page.next_page_token
            if not token:
                return
            if token in seen:
                raise self._strange("its list never ends")
            seen.add(token)

    def _call(self, method: Callable[..., Any], *given: Any, **query: Any) -> Any:
        try:
            return self._checked(method(*given, **query))
        except (kfp.ApiException, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise self._strange(error) from error

    def _checked(self, answer: Any) -> Any:
        identity = _IDENTITIES.get(type(answer))
        if answer is None or (identity and not getattr(answer, identity)):
            raise self._strange(f"it lacks {identity or 'a row of a list'}")
        return answer

    def _strange(self, why: object) -> ApiError:
        return ApiError(
            f"{self._connection.host} answers in a way this client does not know ({why}); is it a Kubeflow Pipelines "
            "server with the API v2beta1?"
        )
