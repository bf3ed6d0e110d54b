"""An idle operator writes nothing but its Lease, and what is applied twice is written once."""

from __future__ import annotations

from tests.operator.running import eventually, is_work, resting, told

from modelfleet.kube.resources import DEPLOYMENTS, MODEL_POOLS


async def test_the_same_manifests_twice_are_no_write(fleet, proxy, start, tmp_path):
    await fleet.a_fleet("small", "boss")
    operator = start(proxy.kubeconfig(tmp_path), PACE_RESYNC="0.5")
    await operator.leads()
    await eventually(lambda: fleet.settled("small", "boss"), operator.story)
    await eventually(lambda: resting(operator, proxy), operator.story)

    proxy.reset()
    before = await operator.metric("modelfleet_operator_cycles_total")
    for name in ("small", "boss"):
        await fleet.a_pool(name)
    await fleet.a_class()

    await eventually(lambda: _cycled(operator, before + 5), operator.story)
    assert told([w for w in proxy.written() if is_work(w)]) == []
    await eventually(proxy.written, operator.story)  # the Lease: the operator was alive all the while
    assert told([w for w in proxy.written() if is_work(w)]) == []


async def test_a_second_process_finds_nothing_to_write(fleet, proxy, start, tmp_path):
    await fleet.a_fleet()
    first = start(proxy.kubeconfig(tmp_path), PACE_RESYNC="0.5")
    await first.leads()
    await eventually(lambda: fleet.settled("small"), first.story)
    await eventually(lambda: resting(first, proxy), first.story)
    first.kill()
    await first.ends()
    await fleet.no_lease()

    proxy.reset()
    second = start(proxy.kubeconfig(tmp_path), PACE_RESYNC="0.5")
    await second.leads()
    await eventually(lambda: _cycled(second, 5), second.story)
    assert told([w for w in proxy.written() if is_work(w)]) == []


async def test_a_child_deleted_by_hand_comes_back_and_a_pool_that_changes_is_followed(fleet, server, start):
    await fleet.a_fleet()
    operator = start(server.kubeconfig)
    await operator.leads()
    await eventually(lambda: fleet.settled("small"), operator.story)
    await fleet.client.delete(DEPLOYMENTS, fleet.namespace, "small-card")
    await eventually(lambda: fleet.settled("small"), operator.story)

    await fleet.a_pool("small", replicas=3)

    async def three() -> bool:
        return (await fleet.client.get(DEPLOYMENTS, fleet.namespace, "small-card"))["spec"]["replicas"] == 3

    await eventually(three, operator.story)
    await fleet.client.delete(MODEL_POOLS, fleet.namespace, "small")
    assert not operator.ended()


async def _cycled(operator, number: float) -> bool:
    return await operator.metric("modelfleet_operator_cycles_total") >= number


async def test_one_line_for_each_change_and_one_for_the_cycle(fleet, server, start):
    await fleet.a_fleet()
    operator = start(server.kubeconfig, LOG_LEVEL="info")
    await operator.leads()
    await eventually(lambda: fleet.settled("small"), operator.story)
    lines = operator.text().splitlines()
    applied = f"msg=apply kind=Deployment namespace={fleet.namespace} name=small-card"
    assert len([line for line in lines if applied in line]) == 1, operator.story()
    assert any(f"msg=apply kind=ModelPool namespace={fleet.namespace} name=small part=status" in line for line in lines)
    assert any("msg=apply kind=Node name=node-1" in line for line in lines)
    assert any("msg=cycle writes=" in line for line in lines)
    assert all(line.startswith("ts=") for line in lines), operator.story()
    assert server.token not in operator.text()
