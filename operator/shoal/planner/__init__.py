"""The decision: `decide(Snapshot) -> PlanSet`, pure and total.

| module | holds |
|---|---|
| `decide` | the entry: one Decision for every ModelService of a Snapshot |
| `groups` | parts of a Snapshot that share no pool |
| `demand` | arrivals -> the rate to plan for |
| `catalog`, `datasheets`, `estimate`, `memory` | what is known of a model and a GPU without any measurement |
| `curves`, `latency`, `capacity` | a profile row -> the highest rate that meets the objective |
| `rows`, `frontier` | which configurations there are, which are refused and why, which no other one beats |
| `ledger`, `sizing` | the cheapest replicas that fit what is left of the pools |
| `thermal` | what replicas on slowed GPUs still carry |
| `stabilise` | when the target may move, with a bound on how often |
| `rollout` | the next step from what runs to the target |
| `explain`, `remember` | the sentence with the numbers; what the next decision needs of this one |
"""
