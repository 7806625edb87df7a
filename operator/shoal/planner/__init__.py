"""The decision: `decide(Snapshot) -> PlanSet`, pure and total.

| module | holds |
|---|---|
| `decide` | the entry: one Decision for every ModelService of a Snapshot; who gets which GPUs |
| `groups` | parts of a Snapshot that share no pool |
| `assess` | all about one service that does not depend on the others |
| `demand`, `lengths` | arrivals -> the rate and the request lengths to plan for |
| `catalog`, `datasheets`, `estimate`, `memory` | what is known of a model and a GPU without any measurement |
| `curves`, `latency`, `capacity` | a profile row -> the highest rate that meets the objective |
| `rows`, `checks`, `frontier` | which configurations there are, which are refused and why, which no other one beats |
| `ledger`, `sizing` | the cheapest replicas that fit what is left of the pools |
| `thermal` | what replicas on slowed GPUs still carry |
| `stabilise`, `manual` | when the target may move, with a bound on how often; what a person asks for |
| `rollout` | the next step from what runs to the target |
| `answer`, `explain` | the Decision and its sentence with the numbers |
| `remember` | what the next decision needs of this one |
"""
