"""Policy Guide: the client's guide as an ordered table of rules.

Each row is one rule with the items of the guide behind it; docs/guide-claims.md lists every item.
The guide contradicts itself in places; each case has one resolution here and a comment that names
it (C1 to C33, docs/guide-claims.md). The table is data of our own: it is never parsed from the
guide. Its halves stand in `guide_training` and `guide_adapter`. Pure; it reads traits and knows no
resource, model or cluster.
"""

from finetune_resolver.policies.guide_adapter import ADAPTER, TRAINER_ALPHA
from finetune_resolver.policies.guide_training import TRAINING
from finetune_resolver.policies.rule import TraitRule, group_rules

RULES: tuple[TraitRule, ...] = (*TRAINING, *ADAPTER)
"""The whole table, in the order its parameters are decided and shown."""

GROUPS = group_rules(RULES)

__all__ = ["GROUPS", "RULES", "TRAINER_ALPHA"]
