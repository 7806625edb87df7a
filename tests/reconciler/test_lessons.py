"""What is known between decisions, and what a deletion forgets."""

from __future__ import annotations

from dataclasses import replace

from objects import add_service, make_store

from shoal.domain.configuration import Configuration, Placement
from shoal.domain.live import LiveSample, Residual
from shoal.domain.plan import Demand, Explanation, Plan, Prediction, Scale
from shoal.domain.profile import LengthMix, ProfileRow, StepModel
from shoal.domain.reasons import Binding, ProfileState
from shoal.domain.service import EngineFacts, Objective, Service, ServiceKey, Workload
from shoal.reconciler.lessons import Lessons
from shoal.reconciler.library import Library

MIX = LengthMix(512, 128, 1024, 256)
PLACEMENT = Placement("h100", Configuration("NVIDIA-H100-80GB-HBM3"))


def make_wish(uid: str) -> Service:
    return Service(
        key=ServiceKey("team", "chat"),
        uid=uid,
        generation=1,
        created_at=0.0,
        model="acme/m",
        facts=None,
        max_context_tokens=8192,
        objective=Objective(95, 1000, 50),
        workload=Workload(1.0, MIX),
        engine=EngineFacts("vllm", "0.33.0"),
        pools=("h100",),
    )


def make_decision(service: Service) -> Scale:
    row = ProfileRow(1, 1, 256, 2048, 1e5, MIX, steps=StepModel(3.0, 0.01, 1e-6))
    sample = LiveSample(0.0, 60.0, 1, 2.0, 120.0, itl_mean_ms=20.0)
    residual = Residual(PLACEMENT, sample, row, True, 2.0, 150.0, 20.0, 1.5, True)
    demand = Demand(2.0, 2.0, 0.1, 0.0, 300.0, observed=True)
    explanation = Explanation(demand, ProfileState.ESTIMATED, residuals=(residual,))
    return Scale(service.key, Plan((), Prediction(None, None, 0.5), 0.0, Binding.DEMAND), (), explanation, moved=False)


def test_what_was_learned_is_known_to_the_next_decision_until_it_is_forgotten() -> None:
    store = make_store()
    item = add_service(store)
    lessons = Lessons(Library(store))
    service = replace(make_wish(item.uid), learned=lessons.of(item))
    decision = make_decision(service)
    lessons.learn(service, decision, 1000.0)
    (learned,) = lessons.of(item)
    assert learned.tally.requests == 120.0

    begun = replace(service, learned=lessons.of(item))
    lessons.forget(item.uid)
    lessons.learn(begun, decision, 1100.0)  # it was under way when somebody deleted what had been learned
    assert lessons.of(item) == ()
    lessons.learn(replace(service, learned=lessons.of(item)), decision, 1200.0)
    assert len(lessons.of(item)) == 1
    lessons.reset()
    assert lessons.of(item) == ()
