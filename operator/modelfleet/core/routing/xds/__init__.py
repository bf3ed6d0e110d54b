"""RoutingPlan -> what Envoy reads: listeners, routes, clusters and endpoints, as JSON of the xDS protos.

Decided here: the path of a request inside Envoy 1.40 (filters, retries, what is stripped, what an error looks like). Not here:
who may use which group (``compile.py``), which chain one request gets (``decide.py``), when a resource is sent (``router/ads.py``).
Messages that the Python protos lack travel as ``xds.type.v3.TypedStruct``. No secret is in here: keys are SDS references.

The contract with the decider (ext_authz over ``authz.sock``), which is asked unless the guard has set ``modelfleet.guard`` ``skip`` (``guard.py``):

- it gets the body (``raw_body``; its head alone beyond ``decide_body_bytes``, then ``x-envoy-auth-partial-body`` is ``true``),
  ``metadata_context`` namespace ``modelfleet.request`` (``model``: string, ``stream``: bool), and the route's ``context_extensions`` ``policy``,
  ``entrypoint``, ``version``;
- an OK answer carries ``dynamic_metadata`` (stored under ``envoy.filters.http.ext_authz``): ``priority_groups``, a list of
  ``{"name": <group>}`` padded to maxAttempts by its last (never ``clusters``: those could name any cluster), the strings ``id``, ``policy``,
  ``rule``, and ``span`` (``"<start>,<end>"``, bytes of the quoted top-level model, end exclusive); one request header, always
  (``x-modelfleet-model-span``: without a header change Envoy keeps the static chain; it never leaves the gateway); and the response header
  ``x-modelfleet-decision`` with OVERWRITE_IF_EXISTS_OR_ADD, since the route has put its own there first;
- access logs go to ``ads.sock`` (log name ``modelfleet``): ``common_properties.metadata`` holds ``typed_filter_metadata`` ``envoy.ai.token_usage``
  (read by ``router/tokens.py``), ``filter_metadata`` ``modelfleet.usage`` (of streams, as they pass: numbers
  ``input``, ``output``, ``cached``), ``filter_metadata`` ``envoy.filters.http.ext_authz`` (the above) and ``modelfleet.upstream`` (``key_refused``:
  ``<ns>/<pool>/<flavor>``); ``custom_tags`` hold ``served`` (``<ns>/<pool>/<flavor>``) and the route's ``policy`` and ``entrypoint``.

What Envoy needs to parse a body counts against ``decide_timeout``. Measured on 1.40.0, two shared cores, a decider that answers at once, and bodies whose
first megabyte alone is sent to it: 7.5 MB of one string were always decided within 200 ms; 4 MB of small objects within 500 ms and not within 200 ms; 7.5 MB
of them within 1 s and not within 500 ms. A body that comes too late is served by the static chain, or refused where the policy says so.
"""

from __future__ import annotations

from modelfleet.core.routing.compile import NOTHING
from modelfleet.core.routing.ir import PodCluster, RoutingPlan

from .clusters import assignment, pod_cluster, remote_cluster, secret_name
from .errors import error_body
from .listener import gateway, pipe, sink
from .routes import route_table
from .settings import GatewaySettings, Resources
from .teams import TEAMS, team_assignment, team_cluster
from .wire import ROUTES, tcp

__all__ = ["GatewaySettings", "Resources", "error_body", "resources", "secret_name"]


def resources(plan: RoutingPlan, settings: GatewaySettings) -> Resources:
    """Everything one Envoy needs for a plan. Equal plans give equal bytes."""
    nothing = PodCluster(name=NOTHING[1], pool="", upstream_model="", addresses=())
    pods = (nothing, *plan.pod_clusters)
    clusters = {p.name: pod_cluster(p, settings) for p in pods} | {r.name: remote_cluster(r, settings) for r in plan.remote_clusters}
    endpoints = {p.name: assignment(p, settings) for p in pods}
    if plan.teams:
        clusters[TEAMS], endpoints[TEAMS] = team_cluster(settings), team_assignment(plan, settings)
    return Resources(
        listeners={
            "gateway": gateway(settings),
            "sink": sink("sink", pipe(settings, "sink"), settings),
            "sink-tcp": sink("sink-tcp", tcp("127.0.0.1", settings.sink_port), settings),
        },
        routes={ROUTES: route_table(plan)},
        clusters=dict(sorted(clusters.items())),
        endpoints=dict(sorted(endpoints.items())),
        secrets={secret_name(r.secret): r.secret for r in plan.remote_clusters if r.secret is not None},
    )
