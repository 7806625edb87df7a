"""What is left does not depend on how often it was asked for, nor on what was written down in between."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from planner_world import L40S, make_pool

from shoal.domain.pool import Admission
from shoal.domain.service import ServiceKey
from shoal.planner.ledger import Ledger, Use

KEYS = [ServiceKey(namespace, name) for namespace in ("ml", "web") for name in ("a", "b")]
POOLS = [
    replace(make_pool(gpus=16, per_node=8), admissions=(Admission("ml", gpu_quota=9),)),
    make_pool("l40s", L40S, gpus=6, per_node=2, max_gpus=10),
]
PLACES = [("h100", None), ("h100", "h100-0"), ("h100", "h100-1"), ("l40s", None), ("l40s", "l40s-0"), ("gone", "x")]

uses = st.dictionaries(
    st.builds(
        lambda place, gpus: Use(place[0], gpus, place[1]), st.sampled_from(PLACES), st.sampled_from((1, 2, 3, 8))
    ),
    st.integers(0, 3),
    max_size=3,
)


def rooms(ledger):
    names = [pool.name for pool in POOLS]
    return [ledger.room(k, names, limit=5, beside_own=own) for k in KEYS for own in (True, False)]


@given(st.lists(st.tuples(st.sampled_from(KEYS), uses), max_size=8))
def test_a_used_ledger_tells_what_a_fresh_one_does(entries):
    used = Ledger(POOLS)
    last = {}
    for key, held in entries:
        used.reserve(key, held)
        last[key] = held
        fresh = Ledger(POOLS)
        for other, its in last.items():
            fresh.reserve(other, its)
        assert rooms(used) == rooms(fresh) == rooms(used)
        for one in KEYS:
            alone = Ledger(POOLS)
            for other, its in last.items():
                if other != one:
                    alone.reserve(other, its)
            names = [pool.name for pool in POOLS]
            beside = used.room(one, names, limit=None, beside_own=False)
            assert beside == alone.room(one, names, limit=None, beside_own=True)
