"""The registry of containers: what sources say, and what the kernel is told of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import msgspec
import pytest

from bpfence import abi
from bpfence.compiler.compile import compile_policies
from bpfence.compiler.workloads import ALL_OF, Class, classes
from bpfence.errors import KernelError
from bpfence.policy import CONTAINER_FIELD, Atom, Label, Op, Policy, PolicySet, Selector
from bpfence.workloads import registry
from bpfence.workloads import registry as registry_module
from bpfence.workloads.model import Container, Pod
from bpfence.workloads.registry import HOOK, Registry, joined

NGINX, FRONT = Selector(images=("nginx",)), Selector(labels=(Label("tier", "in", ("front",)),))
POLICIES = PolicySet(tuple(Policy(name=f"p{n}", scope=Atom(CONTAINER_FIELD, Op.SELECTS, one)) for n, one in enumerate((NGINX, FRONT))))


class Kernel:
    """The map of classes, of `room` entries."""

    def __init__(self, room: int = 100) -> None:
        self.classes: dict[int, int] = {}
        self.room = room

    def put_workload(self, cgroup: int, number: int) -> None:
        if cgroup not in self.classes and len(self.classes) >= self.room:
            raise KernelError("no room")
        self.classes[cgroup] = number

    def drop_workload(self, cgroup: int) -> None:
        del self.classes[cgroup]


class Rig:
    def __init__(self, policies: PolicySet = POLICIES, room: int = 100) -> None:
        self.kernel = Kernel(room)
        self.cgroups: dict[str, int] = {}
        self.told = 0
        self.at_once = False
        self.said: list[str] = []
        self.registry = Registry(self._tell, lambda path: self.cgroups.get(path, 0), self.said.append)
        self.registry.use(self.kernel)
        self.swap(policies)

    def _tell(self) -> None:
        self.told += 1
        if self.at_once and self.registry.due and not self.registry.wants_classes:
            with self.registry.swapping(self.known) as numbers:
                self.kernel.classes = dict(numbers)

    def swap(self, policies: PolicySet) -> tuple[Class, ...]:
        known = classes(policies, self.registry.seen(policies))
        with self.registry.swapping(known) as numbers:
            self.kernel.classes = dict(numbers)
        self.known = known
        return known

    def container(self, name: str, **known: object) -> Container:
        path = f"/docker/{name}"
        self.cgroups.setdefault(path, 1000 + len(self.cgroups))
        return Container(id=name, cgroup=path, cgroup_id=self.cgroups[path], **known)  # type: ignore[arg-type]

    def of(self, name: str) -> Class | str:
        """The class that the kernel has for a container."""
        number = self.kernel.classes.get(self.cgroups[f"/docker/{name}"])
        if number is None or number == abi.WORKLOAD_PENDING:
            return "none" if number is None else "pending"
        return self.known[number - abi.WORKLOAD_FIRST]


def test_a_container_has_the_class_of_what_selects_it() -> None:
    rig = Rig()
    web = rig.container("web", image="nginx:1.27", labels={"tier": "front"})
    rig.registry.found("docker", [web, rig.container("db", image="postgres")])
    assert (rig.of("web"), rig.of("db")) == ({NGINX, FRONT}, frozenset())
    assert rig.registry.of("/docker/web/below/it") == web
    assert rig.registry.of("/docker") is None
    rig.registry.found("docker", None)
    assert rig.of("web") == {NGINX, FRONT}
    rig.registry.found("docker", [web])
    assert rig.of("db") == "none"
    rig.registry.found("docker", [])
    assert rig.kernel.classes == {}
    assert rig.registry.containers() == []


def test_what_has_just_ended_is_known_for_what_is_told_of_it_late(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("bpfence.workloads.registry.time.monotonic", lambda: now)
    rig = Rig()
    web, other = rig.container("web", image="nginx:1.27"), rig.container("web/other", image="redis")
    rig.registry.found("docker", [web, other])
    rig.registry.found("docker", [web])
    assert rig.registry.lately("/docker/web/other") == web  # that it belongs to now
    rig.registry.found("docker", [])
    assert rig.registry.of("/docker/web/below") is None
    assert rig.registry.lately("/docker/web/below") == web
    assert rig.registry.lately("/docker/web/other/below") == other
    assert rig.registry.lately("/docker") is None
    now += registry.PAST_SECONDS
    assert rig.registry.lately("/docker/web/below") is None


def test_of_those_that_have_ended_the_last_ones_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_PAST", 2)
    rig = Rig()
    names = ("a", "b", "c", "a")
    for name in names:
        rig.registry.found("docker", [rig.container(name, image="x")])
    rig.registry.found("docker", [])
    assert [name for name in "abc" if rig.registry.lately(f"/docker/{name}")] == ["a", "c"]


def test_a_changed_label_is_one_update_and_asks_for_a_swap() -> None:
    rig = Rig()
    web = rig.container("web", image="nginx", labels={"tier": "back"})
    rig.registry.found("docker", [web])
    rig.swap(POLICIES)
    assert not rig.registry.due
    rig.registry.found("docker", [web])
    assert not rig.registry.due
    rig.registry.found("docker", [msgspec.structs.replace(web, labels={"tier": "back", "other": "x"})])
    assert not rig.registry.due  # nobody asks for that label
    told = rig.told
    rig.registry.found("docker", [msgspec.structs.replace(web, labels={"tier": "front"})])
    assert rig.of("web") == {NGINX, FRONT}
    assert (rig.registry.due, rig.registry.wants_classes, rig.told) == (True, False, told + 1)
    rig.swap(POLICIES)
    assert not rig.registry.due


def test_what_changes_nothing_for_running_processes_asks_for_no_swap() -> None:
    rig = Rig()
    rig.registry.found("cgroups", [rig.container("bare")])  # treated as one that nobody has told of
    assert not rig.registry.due
    rig.registry.found("docker", [rig.container("running", image="nginx")])
    assert rig.registry.due


def test_a_registration_ends_when_processes_are_looked_at_anew() -> None:
    """The first process of a container is at work before its program is."""
    rig = Rig()
    with pytest.raises(KernelError, match="in time"):
        rig.registry.register(rig.container("late", image="nginx"), seconds=0)
    assert (rig.of("late"), rig.registry.due, rig.registry.urgent) == ({NGINX}, True, False)
    rig.at_once = True
    rig.registry.register(rig.container("web", image="nginx"))
    assert (rig.of("web"), rig.registry.due) == ({NGINX}, False)


def test_who_is_left_in_a_container_that_is_gone_is_looked_at_anew() -> None:
    rig = Rig()
    rig.registry.found("docker", [rig.container("web", image="nginx"), rig.container("db", image="nginx")])
    rig.swap(POLICIES)
    del rig.cgroups["/docker/db"]
    rig.registry.found("docker", [rig.container("web", image="nginx")])
    assert not rig.registry.due
    rig.registry.found("docker", [])
    assert rig.registry.due


def many() -> PolicySet:
    selectors = [Selector(images=(f"i{n}", "both") if n < 2 else (f"i{n}",)) for n in range(ALL_OF + 1)]
    return PolicySet(tuple(Policy(name=f"p{n}", scope=Atom(CONTAINER_FIELD, Op.SELECTS, one)) for n, one in enumerate(selectors)))


def test_a_new_class_waits_for_tables() -> None:
    rig = Rig(many())
    rig.registry.found("docker", [rig.container("one", image="i1"), rig.container("two", image="both")])
    assert (len(rig.of("one")), rig.of("two")) == (1, "pending")
    assert rig.registry.wants_classes
    rig.swap(many())
    assert len(rig.of("two")) == 2
    assert not rig.registry.due
    rig.registry.found("docker", [])
    rig.swap(many())  # the class is kept: the next such container need not wait
    rig.at_once = True
    rig.registry.register(rig.container("three", image="both"))
    assert len(rig.of("three")) == 2


def test_a_registration_waits_for_its_class() -> None:
    rig = Rig(many())
    thread = threading.Thread(target=rig.registry.register, args=(rig.container("two", image="both"), 60.0))
    thread.start()
    while not rig.registry.wants_classes:
        pass
    assert thread.is_alive()
    rig.swap(many())
    thread.join(60)
    assert not thread.is_alive()
    assert len(rig.of("two")) == 2


def test_a_class_that_cannot_be_had_is_not_waited_for_again() -> None:
    rig = Rig(many())
    with pytest.raises(KernelError, match="in time"):
        rig.registry.register(rig.container("two", image="both"), seconds=0)
    rig.registry.give_up()
    assert not rig.registry.wants_classes
    assert rig.of("two") == "pending"
    with pytest.raises(KernelError, match="cannot have"):
        rig.registry.register(rig.container("three", image="both"), seconds=60)


def test_more_classes_than_tables_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(many())
    monkeypatch.setattr(registry_module, "MAX_CLASSES", len(rig.known))
    rig.registry.found("docker", [rig.container("two", image="both")])
    with rig.registry.swapping(rig.known):
        pass
    assert rig.of("two") == "pending"
    assert not rig.registry.due


def test_a_container_within_another_is_in_the_classes_of_both() -> None:
    rig = Rig()
    outer = rig.container("web", image="nginx")
    inner = Container(id="x", cgroup="/docker/web/docker/x", cgroup_id=7, image="redis", labels={"tier": "front"})
    rig.registry.found("docker", [inner])
    assert rig.known[rig.kernel.classes[7] - abi.WORKLOAD_FIRST] == {FRONT}
    rig.registry.found("cgroups", [outer])
    assert rig.known[rig.kernel.classes[7] - abi.WORKLOAD_FIRST] == {FRONT, NGINX}
    bare = Container(id="y", cgroup="/docker/web/docker/y", cgroup_id=8)
    rig.registry.found("cgroups", [outer, bare])
    assert rig.registry.of("/docker/web/docker/y/z") == outer  # more is known of it
    rig.registry.found("cgroups", [])
    assert rig.known[rig.kernel.classes[7] - abi.WORKLOAD_FIRST] == {FRONT}


def test_a_container_does_not_become_unknown_by_making_a_cgroup_that_looks_like_one() -> None:
    maybe = Selector(images=("nginx",), unknown=True)
    rig = Rig(PolicySet((Policy(name="p", scope=Atom(CONTAINER_FIELD, Op.SELECTS, maybe)),)))
    outer = rig.container("redis", image="redis")
    fake = Container(id="f" * 64, cgroup="/docker/redis/docker/fake", cgroup_id=9, runtime="docker")
    rig.registry.found("docker", [outer])
    rig.registry.found("cgroups", [fake, rig.container("alone")])
    assert rig.of("alone") == {maybe}
    assert rig.known[rig.kernel.classes[9] - abi.WORKLOAD_FIRST] == frozenset()


def test_sources_complete_each_other() -> None:
    rig = Rig()
    rig.registry.found("cgroups", [rig.container("web", runtime="docker")])
    rig.registry.found("docker", [rig.container("web", image="nginx", privileged=False, pod=Pod("p", "ns"))])
    rig.registry.found("kubernetes", [rig.container("web", pod=Pod("p", "ns", labels={"tier": "front"}))])
    (one,) = rig.registry.containers()
    assert (one.runtime, one.image, one.privileged) == ("docker", "nginx", False)
    assert one.pod == Pod("p", "ns", labels={"tier": "front"})
    assert rig.of("web") == {NGINX, FRONT}
    rig.registry.found("docker", [])
    assert [known.image for known in rig.registry.containers()] == [""]


def test_joined() -> None:
    bare, known = Container(id="a", cgroup="/x", runtime="docker"), Container(id="b", cgroup="/x", image="nginx")
    assert joined([]) is None
    assert joined([bare, known]) == known  # whoever has made the cgroup chose the name that looks like an id
    assert joined([known, bare]) == known


def test_labels_that_were_told_stay_and_none_may_be_told() -> None:
    told = Container(id="a", cgroup="/x", labels={"x": "y"}, pod=Pod("p", "ns", labels={"x": "y"}))
    assert joined([told, Container(id="a", cgroup="/x", pod=Pod("p", "ns"))]) == told
    nothing = Container(id="a", cgroup="/x", labels={}, pod=Pod("p", "ns", labels={}))
    assert joined([told, nothing]) == nothing


def test_a_new_cgroup_at_the_same_path_is_another() -> None:
    rig = Rig()
    web = rig.container("web", image="nginx")
    rig.registry.found("docker", [web])
    rig.registry.found("docker", [msgspec.structs.replace(web, cgroup_id=99)])
    assert list(rig.kernel.classes) == [99]


def test_what_the_hook_told_of_goes_with_its_cgroup() -> None:
    rig = Rig()
    rig.at_once = True
    rig.registry.register(rig.container("web", image="nginx"))
    rig.registry.found("docker", [])
    assert len(rig.registry.containers()) == 1
    del rig.cgroups["/docker/web"]
    rig.registry.found("docker", [])
    assert rig.registry.containers() == []
    assert rig.kernel.classes == {}


@pytest.mark.parametrize("cgroup", ["", "/", "relative", "/a/", "/a" * (abi.WORKLOAD_LEVELS + 1), "/gone"])
def test_what_has_no_cgroup_of_its_own_has_no_class(cgroup: str) -> None:
    rig = Rig()
    with pytest.raises(KernelError, match="cgroup"):
        rig.registry.register(Container(id="c", cgroup=cgroup, image="nginx"))
    rig.registry.found("docker", [Container(id="c", cgroup=cgroup, image="nginx")])
    assert rig.registry.containers() == []


def test_what_is_larger_than_anything_real_is_left_out() -> None:
    rig = Rig()
    rig.registry.found("docker", [rig.container("web", image="n" * 5000), rig.container("db", labels={"x": "y" * 5000})])
    assert rig.registry.containers() == []


def test_more_containers_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(room=1)
    rig.registry.found("docker", [rig.container("a", image="nginx"), rig.container("b", image="nginx"), rig.container("c", image="nginx")])
    assert len(rig.kernel.classes) == 1
    assert len(rig.said) == 1
    monkeypatch.setattr(registry_module, "MAX_CONTAINERS", 4)
    rig.registry.found("other", [rig.container(name, image="nginx") for name in ("d", "e")])
    assert len(rig.registry.containers()) == 4
    with pytest.raises(KernelError, match="no room"):
        rig.registry.register(rig.container("f", image="nginx"))


def test_without_policies_in_force_nothing_is_written() -> None:
    rig = Rig()
    rig.registry.use(None)
    rig.kernel.classes = {}
    rig.registry.found("docker", [rig.container("web", image="nginx")])
    assert rig.kernel.classes == {}
    assert not rig.registry.due
    with pytest.raises(KernelError, match="no policies"):
        rig.registry.register(rig.container("web", image="nginx"))
    rig.registry.use(rig.kernel)
    rig.swap(POLICIES)
    assert rig.of("web") == {NGINX}


def test_where_no_policy_selects_every_container_has_one_class() -> None:
    rig = Rig(PolicySet())
    rig.registry.found("docker", [rig.container("web", image="nginx"), Container(id="o", cgroup="/odd", cgroup_id=5)])
    assert set(rig.kernel.classes.values()) == {abi.WORKLOAD_FIRST}
    assert rig.registry.due  # what a path does not tell is in a container all the same


def test_a_swap_that_fails_leaves_what_was() -> None:
    rig = Rig()
    rig.registry.found("docker", [rig.container("web", image="nginx")])
    before = rig.registry.entries()

    def swap(_: Mapping[int, int]) -> None:
        raise KernelError("no room")

    with pytest.raises(KernelError), rig.registry.swapping(()) as numbers:
        swap(numbers)
    assert rig.registry.entries() == before


def test_the_numbers_are_those_of_the_tables() -> None:
    rig = Rig()
    assert compile_policies(POLICIES, workloads=rig.registry.seen(POLICIES)).workloads == rig.known
    assert HOOK == "hook"


def test_a_container_of_which_more_becomes_known_keeps_its_class_meanwhile() -> None:
    rig = Rig(many())
    rig.registry.found("docker", [rig.container("web", image="i1")])
    before = rig.of("web")
    assert len(before) == 1
    rig.registry.found("docker", [rig.container("web", image="both")])
    assert (rig.of("web"), rig.registry.wants_classes) == (before, True)
    with rig.registry.swapping(rig.known) as numbers:  # for other reasons, with the same tables
        rig.kernel.classes = dict(numbers)
    assert (rig.of("web"), rig.registry.wants_classes) == (before, True)
    rig.registry.give_up()
    assert (rig.of("web"), rig.registry.wants_classes) == (before, False)
    rig.swap(many())
    assert len(rig.of("web")) == 2


def test_what_the_hook_said_of_an_earlier_cgroup_ends_with_it() -> None:
    rig = Rig()
    rig.at_once = True
    first = rig.container("web", image="nginx")
    rig.registry.register(first)
    rig.cgroups[first.cgroup] = 7
    again = msgspec.structs.replace(first, cgroup_id=7, image="", name="")
    rig.registry.found("cgroups", [again])
    assert rig.kernel.classes.keys() == {7}
    assert rig.registry.containers() == [again]


def test_what_is_told_of_a_cgroup_that_is_another_by_now_counts_for_nothing() -> None:
    rig = Rig()
    old = rig.container("web", image="nginx")
    rig.cgroups[old.cgroup] = 7
    rig.registry.found("docker", [old])
    rig.registry.found("cgroups", [msgspec.structs.replace(old, cgroup_id=7, image="")])
    assert rig.kernel.classes.keys() == {7}


def test_the_word_of_an_engine_comes_after_the_hooks() -> None:
    rig = Rig()
    rig.at_once = True
    rig.registry.found("docker", [])
    web = rig.container("web", image="nginx")
    rig.registry.register(msgspec.structs.replace(web, name="old"))
    rig.registry.found("docker", [msgspec.structs.replace(web, name="new")])
    assert [one.name for one in rig.registry.containers()] == ["new"]


def test_folders_that_look_like_containers_take_no_room_from_those_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    monkeypatch.setattr(registry_module, "MAX_CONTAINERS", 2)
    rig.registry.found("cgroups", [rig.container("a"), rig.container("b"), rig.container("c")])
    rig.registry.found("docker", [rig.container("web", image="nginx")])
    assert rig.of("web") == {NGINX}
    assert len(rig.registry.containers()) == 2
    assert len(rig.said) == 1


UID = "0b6d0f6c-7d1b-4c33-9a53-0f2f6a3f9a11"
POD_CGROUP = f"/kubepods/besteffort/pod{UID}/{'ab' * 32}"


def front(tier: str = "front", account: str = "web") -> Pod:
    return Pod("web-1", "shop", UID, {"tier": tier}, {"team": "a"}, account, "node-1")


def test_the_api_servers_word_on_a_pod_counts_before_a_runtimes() -> None:
    rig = Rig()
    rig.cgroups[POD_CGROUP] = 7
    told = Container("ab" * 32, POD_CGROUP, image="busybox", pod=Pod("web-1", "shop", UID, {"tier": "back"}))
    rig.registry.found("cri", [told])
    assert FRONT not in rig.registry.entries()[0].selected
    rig.registry.pods({UID: front()})
    assert rig.registry.of(POD_CGROUP) == msgspec.structs.replace(told, cgroup_id=7, pod=front())
    assert FRONT in rig.registry.entries()[0].selected
    rig.registry.found("cri", [told])
    assert FRONT in rig.registry.entries()[0].selected, "what a runtime goes on saying changes nothing"


def test_a_pod_is_joined_by_its_cgroup_where_nobody_else_knows_the_container() -> None:
    rig = Rig()
    rig.cgroups[POD_CGROUP] = 7
    rig.registry.pods({UID: front()})
    rig.registry.found("cgroups", [Container("ab" * 32, POD_CGROUP)])
    found = rig.registry.of(POD_CGROUP)
    assert found is not None
    assert found.pod == front()


def test_what_a_cgroup_says_of_its_pod_counts_before_a_runtimes_word() -> None:
    rig = Rig()
    rig.cgroups[POD_CGROUP] = 7
    rig.registry.pods({UID: front()})
    rig.registry.found(
        "bundles", [Container("ab" * 32, POD_CGROUP, pod=Pod("other", "kube-system", "1b6d0f6c-7d1b-4c33-9a53-0f2f6a3f9a11"))]
    )
    assert [one.pod for one in rig.registry.containers()] == [front()]


@pytest.mark.parametrize(("name", "namespace"), [("web-1", "attackers"), ("other", "shop")])
def test_a_pod_that_passes_for_another_is_not_that(name: str, namespace: str) -> None:
    """The API server lets whoever may make pods name the uid of a static one."""
    rig = Rig()
    rig.cgroups[POD_CGROUP] = 7
    told = Container("ab" * 32, POD_CGROUP, cgroup_id=7, pod=Pod("web-1", "shop", UID, {"tier": "front"}))
    rig.registry.found("cri", [told])
    rig.registry.pods({UID: msgspec.structs.replace(front("back"), name=name, namespace=namespace)})
    assert rig.registry.containers() == [told]
    rig.registry.pods({UID: front()})
    assert [one.pod for one in rig.registry.containers()] == [front()]


def test_a_changed_label_of_a_pod_needs_no_new_tables() -> None:
    rig = Rig()
    rig.cgroups[POD_CGROUP] = 7
    rig.registry.found("cgroups", [Container("ab" * 32, POD_CGROUP, image="busybox")])
    rig.registry.pods({UID: front()})
    before = rig.kernel.classes[7]
    rig.registry.pods({UID: front(tier="back")})
    assert rig.registry.due
    assert not rig.registry.wants_classes
    assert rig.kernel.classes[7] != before
    rig.registry.pods({UID: front()})
    assert rig.kernel.classes[7] == before


def test_of_a_pod_that_is_gone_what_was_known_stays_as_long_as_its_containers() -> None:
    rig = Rig()
    rig.cgroups[POD_CGROUP] = 7
    container = Container("ab" * 32, POD_CGROUP)
    rig.registry.found("cgroups", [container])
    rig.registry.pods({UID: front()})
    rig.registry.pods({UID: None})
    assert FRONT in rig.registry.entries()[0].selected
    rig.registry.found("cgroups", [])
    rig.registry.pods({})
    rig.registry.found("cgroups", [container])
    assert rig.registry.containers()[0].pod is None


def test_more_pods_than_any_node_has_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "MAX_PODS", 1)
    rig = Rig()
    rig.cgroups[POD_CGROUP] = 7
    rig.registry.found("cgroups", [Container("ab" * 32, POD_CGROUP)])
    rig.registry.pods({"another": front(), UID: front()})
    assert rig.registry.containers()[0].pod is None


def test_a_pod_that_the_api_server_has_told_of_has_its_class_before_its_first_instruction() -> None:
    rig = Rig()
    rig.at_once = True
    rig.cgroups[POD_CGROUP] = 7
    rig.registry.pods({UID: front()})
    rig.registry.register(Container("ab" * 32, POD_CGROUP, pod=Pod("web-1", "shop", UID)), seconds=60)
    assert FRONT in rig.registry.entries()[0].selected
