"""Policy Evidence: measurements and published practice as an ordered table of rules.

The shape of `rules_guide`: within a parameter the first rule that matches decides and the last one
matches always. Rules read facts (`facts`) and the parameters decided before them, and no trait of the
language: published LoRA practice does not depend on it. Where the literature is silent the guide's
own rule stands (`BORROWED`). Every rule has its reference. Pure; the arithmetic is
`evidence_formulas`.
"""

from finetune_resolver.policies import evidence_formulas as formulas
from finetune_resolver.policies import guide
from finetune_resolver.policies.evidence_formulas import TARGET_BATCHES, USUAL_EPOCHS, USUAL_RANK
from finetune_resolver.policies.rule import EvidenceRule, TraitRule, group_rules

TML = "Schulman et al. 2025, LoRA Without Regret"
TINKER = "Tinker cookbook, sweep over models with LoRA at batch 128"
QLORA = "Dettmers et al. 2023, QLoRA, its scripts for 7B and 65B"
SMALL_RUNS = (
    "measured with SmolLM2-135M-Instruct on 49 paragraphs, 3 epochs: Swahili fell from 3.447 to 3.294 "
    "bits per byte at 2e-4 and batch 16, to 2.946 at 1e-3, and to 2.504 at 1e-3 and batch 4"
)
LESS_FORGETTING = "Biderman et al. 2024, LoRA Learns Less and Forgets Less, arXiv 2405.09673"

RULES: tuple[EvidenceRule, ...] = (
    EvidenceRule(
        id="E-EP-1",
        parameter="num_train_epochs",
        when=formulas.is_large_plain_text,
        value=1,
        facts=("unique_tokens", "english_tokens"),
        message="Text worth a billion unique tokens of English and more is read once, as the continued "
        "pretraining of Chinese and Tamil Llamas did.",
        reference="Chinese-LLaMA-Alpaca-2 and Tamil-LLaMA, run_pt.sh",
    ),
    EvidenceRule(
        id="E-EP-2",
        parameter="num_train_epochs",
        when=formulas.is_plain_text,
        value=USUAL_EPOCHS,
        facts=("unique_tokens", "english_tokens"),
        message="Up to four passes over plain text are worth nearly as much as new text.",
        reference="Muennighoff et al. 2025, JMLR 26(53)",
    ),
    EvidenceRule(
        id="E-EP-3",
        parameter="num_train_epochs",
        when=formulas.has_few_examples,
        compute=formulas.raise_epochs,
        computes="min(25, 100 / examples)",
        facts=("examples",),
        message="{facts.examples:,} examples are few, so the passes make up about a hundred of them, 25 "
        "passes at most.",
        reference="OpenAI cookbook, estimate for chat fine-tuning",
    ),
    EvidenceRule(
        id="E-EP-4",
        parameter="num_train_epochs",
        when=formulas.has_many_examples,
        compute=formulas.lower_epochs,
        computes="max(1, 25,000 / examples)",
        facts=("examples",),
        message="{facts.examples:,} examples are many, so the passes make up 25,000 of them at most, or one "
        "pass where they are more.",
        reference="OpenAI cookbook, estimate for chat fine-tuning",
    ),
    EvidenceRule(
        id="E-EP-0",
        parameter="num_train_epochs",
        value=USUAL_EPOCHS,
        facts=("examples",),
        message="Three passes are usual for instructions.",
        reference="OpenAI cookbook; Unsloth's guide, 1 to 3",
    ),
    EvidenceRule(
        id="E-MSL-1",
        parameter="max_seq_length",
        when=formulas.is_plain_text,
        compute=formulas.decide_usual_length,
        computes="2048, at most the model's context",
        facts=("context",),
        message="Plain text fills blocks, so their length cuts nothing.",
        reference="Unsloth's continued pretraining notebooks",
    ),
    EvidenceRule(
        id="E-MSL-3",
        parameter="max_seq_length",
        when=formulas.is_longer_than_context,
        compute=formulas.estimate_length,
        computes="the model's context",
        facts=("p99_tokens", "context"),
        message="The 99th percentile of the texts is {facts.p99_tokens:,} tokens and the model reads "
        "{facts.context:,}: its whole context, and what is longer is cut.",
        reference="the model's config.json: max_position_embeddings",
    ),
    EvidenceRule(
        id="E-MSL-2",
        parameter="max_seq_length",
        when=formulas.has_known_lengths,
        compute=formulas.estimate_length,
        computes="99th percentile of the lengths, rounded up to 256, at least 512, at most the context",
        facts=("p99_tokens", "context"),
        message="The 99th percentile of the texts is {facts.p99_tokens:,} tokens: rounded up to 256, at "
        "least 512, it cuts one example in a hundred at most.",
        reference="measured; cutting at the 95th percentile lost 11.6 % of the tokens of a long-tailed corpus",
    ),
    EvidenceRule(
        id="E-MSL-0",
        parameter="max_seq_length",
        compute=formulas.decide_usual_length,
        computes="2048, at most the model's context",
        facts=("context",),
        message="The lengths of the texts were not measured, so what comparable systems start with applies.",
        reference="Unsloth's guide and LLaMA-Factory: 2048",
    ),
    EvidenceRule(
        id="E-TM-1",
        parameter="target_modules",
        compute=formulas.linear_modules,
        computes="every linear module of the layers",
        message="Every linear layer is adapted: attention alone loses even with as many weights.",
        reference=f"{TML}; {LESS_FORGETTING}; six of seven comparable systems",
    ),
    EvidenceRule(
        id="E-R-1",
        parameter="r",
        when=formulas.has_known_capacity,
        compute=formulas.least_rank,
        computes="least of 8, 16, 32, 64, 128, 256 with as many weights as supervised tokens",
        facts=("tokens", "parameters"),
        message="The least rank whose weights are as many as the {facts.tokens:,} tokens that are learned "
        "from, 256 at most.",
        reference="Tinker LoRA primer: adapter weights at least the completion tokens",
    ),
    EvidenceRule(
        id="E-R-0",
        parameter="r",
        value=USUAL_RANK,
        facts=("tokens", "parameters"),
        message="The tokens or the model's shape are unknown, so the usual rank applies.",
        reference="Unsloth and Predibase: 16",
    ),
    EvidenceRule(
        id="E-LA-2",
        parameter="lora_alpha",
        when=formulas.has_rslora,
        compute=formulas.rslora_alpha,
        computes="2 x the root of r",
        message="rsLoRA divides alpha by the root of the rank, so twice that root scales the update by 2.",
        reference="Kalajdzievski 2023, rsLoRA, arXiv 2312.03732; Unsloth's continued pretraining "
        "notebook, alpha 32 at r 128",
    ),
    EvidenceRule(
        id="E-LA-1",
        parameter="lora_alpha",
        compute=formulas.alpha,
        computes="2r up to r 32, r above",
        message="Twice the rank up to 32 and the rank above keeps the update's scale between 1 and 2.",
        reference=f"Unsloth's guide, r or 2r; {TML}",
    ),
    EvidenceRule(
        id="E-DO-1",
        parameter="lora_dropout",
        when=formulas.is_likely_to_overfit,
        value=0.05,
        facts=("examples", "parameters"),
        message="{facts.examples:,} examples are few, and dropout was found useful for models sold as 13B "
        "or smaller.",
        reference="Dettmers et al. 2023, QLoRA, appendix",
    ),
    EvidenceRule(
        id="E-DO-0",
        parameter="lora_dropout",
        value=0.0,
        facts=("examples", "parameters"),
        message="No dropout unless fewer than 1,000 examples train a model sold as 13B or smaller.",
        reference="Unsloth, LLaMA-Factory, PEFT and TRL: 0",
    ),
    EvidenceRule(
        id="E-LR-1",
        parameter="learning_rate",
        when=formulas.is_plain_text,
        compute=formulas.rate(5e-5),
        computes="5e-5, a tenth for method Full",
        message="Continued pretraining on a new language takes a low rate.",
        reference="Unsloth's continued pretraining notebooks",
    ),
    EvidenceRule(
        id="E-LR-2",
        parameter="learning_rate",
        when=formulas.is_in_sweep,
        compute=lambda facts, _: formulas.scale_rate(
            facts, formulas.find_rate(facts.model_name) or 0.0
        ),
        computes="the sweep's best for this model, a tenth for method Full",
        message="The best rate of a published sweep for this model.",
        reference=TINKER,
    ),
    EvidenceRule(
        id="E-LR-3",
        parameter="learning_rate",
        when=formulas.is_named_up_to(4e9),
        compute=formulas.rate(1e-3),
        computes="1e-3, a tenth for method Full",
        facts=("parameters",),
        message="Models sold as 4B or smaller learn best at a high rate.",
        reference=f"{TINKER}: 1e-3 at 1B and 3B; {SMALL_RUNS}",
    ),
    EvidenceRule(
        id="E-LR-4",
        parameter="learning_rate",
        when=formulas.is_named_up_to(15e9),
        compute=formulas.rate(3e-4),
        computes="3e-4, a tenth for method Full",
        facts=("parameters",),
        message="Models sold as 15B or smaller take the lower of the two rates that the sweep found best at 8B.",
        reference=f"{TINKER}: 3e-4 and 1e-3 at 8B",
    ),
    EvidenceRule(
        id="E-LR-5",
        parameter="learning_rate",
        when=formulas.is_named_up_to(40e9),
        compute=formulas.rate(2e-4),
        computes="2e-4, a tenth for method Full",
        facts=("parameters",),
        message="Models sold as 40B or smaller take a rate between those that the sweep found best at 20B and 32B.",
        reference=f"{TINKER}: 1e-4 at 20B, 3e-4 at 32B",
    ),
    EvidenceRule(
        id="E-LR-6",
        parameter="learning_rate",
        when=formulas.has_known_size,
        compute=formulas.rate(1e-4),
        computes="1e-4, a tenth for method Full",
        facts=("parameters",),
        message="Models sold as more than 40B take the lowest rate.",
        reference=QLORA,
    ),
    EvidenceRule(
        id="E-LR-0",
        parameter="learning_rate",
        compute=formulas.rate(2e-4),
        computes="2e-4, a tenth for method Full",
        message="The model's size is unknown, so the rate that most LoRA recipes share applies.",
        reference=f"{QLORA}; Unsloth, Axolotl and Predibase: 2e-4",
    ),
    EvidenceRule(
        id="E-OPT-1",
        parameter="optimizer",
        value="AdamW",
        message="AdamW with 32-bit moments, fused: an adapter's moments are too small to be worth 8 bits.",
        reference="10 or 16 bytes a trained weight: 0.25 GB apart for r 16 on all linear layers of an 8B",
    ),
    EvidenceRule(
        id="E-WD-1",
        parameter="weight_decay",
        value=0.01,
        message="A small decay is usual; its effect on an adapter is small.",
        reference="Unsloth's guide: 0.01; Tamil-LLaMA: 0.01",
    ),
    EvidenceRule(
        id="E-BS-1",
        parameter="batch_size",
        when=formulas.has_known_steps,
        compute=formulas.decide_batch,
        computes="largest of 16, 8, 4 that leaves at least 60 optimizer steps, else 4",
        facts=("examples",),
        message="The largest of 16, 8 and 4 sequences a step with which {facts.examples:,} examples make "
        "60 steps or more, else 4.",
        reference=f"{TML}, batches below 32; {SMALL_RUNS}",
    ),
    EvidenceRule(
        id="E-BS-0",
        parameter="batch_size",
        value=TARGET_BATCHES[0],
        facts=("examples",),
        message="16 sequences a step, because no count of examples says that it would leave too few steps.",
        reference=f"Unsloth's guide: 16; {TML}, batches below 32",
    ),
    EvidenceRule(
        id="E-PDB-1",
        parameter="per_device_train_batch_size",
        when=formulas.has_known_gpu_memory,
        compute=formulas.fit_batch_share,
        computes="largest power of two that fits the GPU, at most a worker's share of batch_size",
        facts=("gpu_memory_bytes",),
        message="The largest power of two of sequences that fits the GPU and a worker's share.",
        reference="memory model, docs/memory.md",
    ),
    EvidenceRule(
        id="E-PDB-0",
        parameter="per_device_train_batch_size",
        compute=formulas.divide_batch,
        computes="largest power of two up to a worker's share of batch_size",
        message="A worker's share of batch_size, a power of two; what fits is not known before the run.",
        reference="any split gives the same gradient: the loss is normalised over the whole step",
    ),
    EvidenceRule(
        id="E-GA-1",
        parameter="gradient_accumulation_steps",
        compute=formulas.accumulation,
        computes="batch_size / (per-device batch x workers), rounded up",
        message="As many micro-steps as make the batch, rounded up.",
        reference="arithmetic",
    ),
    EvidenceRule(
        id="E-GC-1",
        parameter="gradient_checkpointing",
        value=True,
        message="Layers may be recomputed, and are only where memory requires it: the result is the same.",
        reference="memory model, docs/memory.md",
    ),
    EvidenceRule(
        id="E-EV-1",
        parameter="evaluation_strategy",
        when=formulas.has_short_epochs,
        value="epoch",
        facts=("examples",),
        message="An epoch has fewer than 100 steps, so evaluating after each is more often than by steps.",
        reference="G-HT-14: every 100 to 500 steps",
    ),
    EvidenceRule(
        id="E-EV-0",
        parameter="evaluation_strategy",
        value="steps",
        facts=("examples",),
        message="The held-out part is evaluated every 100 to 500 steps.",
        reference="G-HT-14",
    ),
    EvidenceRule(
        id="E-SV-1",
        parameter="save_strategy",
        compute=lambda _, values: values["evaluation_strategy"],
        computes="as evaluation_strategy",
        message="Saved whenever it is evaluated, so that the best adapter is published and not the last.",
        reference="transformers' load_best_model_at_end wants both cadences equal (PR 12786)",
    ),
)
"""The whole table, in the order its parameters are decided: later ones follow from earlier ones."""

BORROWED: dict[str, TraitRule] = {
    name: guide.GROUPS[name][0]
    for name in ("use_flash_attention", "max_steps", "early_stopping_patience", "bias", "task_type")
}
"""Where measurements and literature are silent: the guide's one rule."""

GROUPS = group_rules(RULES)
