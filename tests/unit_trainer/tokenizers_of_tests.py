"""Real tokenizers, trained on the spot, with the chat templates of the families that people use.

The templates are our own, written after how each family behaves: what ends a turn, what it refuses,
what it moves and what it strips.
"""

from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{% if m['role'] == 'system' %}Today: {{ strftime_now('%d %b %Y') }}\n{% endif %}"
    "{% if m['tool_calls'] %}{{ m['tool_calls'][0]['function'] | tojson }}"
    "{% else %}{{ m['content'] | trim }}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# History shows an answer without its thinking; the last answer keeps it, or gets an empty one.
THINKING = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}"
    "{% set answer = m['content'].split('</think>')[-1].lstrip('\n') %}"
    "{% if loop.index0 > ns.last %}<think>\n"
    "{{ m['content'].split('</think>')[0].split('<think>')[-1].strip('\n')"
    " if '</think>' in m['content'] else '' }}\n</think>\n\n{% endif %}{{ answer }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The system text stands before the last question, so an earlier beginning is no beginning of it.
MOVES_SYSTEM = (
    "{{ bos_token }}{% set sys = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% set rest = messages[1:] if sys else messages %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}[INST] "
    "{% if sys and loop.index0 >= (rest | length) - 2 %}{{ sys }}\n\n{% endif %}"
    "{{ m['content'] }} [/INST]{% else %} {{ m['content'] | trim }}</s>{% endif %}{% endfor %}"
)
PLAIN_WORDS = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
DROPS_SYSTEM = (
    "{% for m in messages %}{% if m['role'] in ('user', 'assistant') %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<s>",
    "</s>",
    "<pad>",
]
TEXT = [
    "Habari ya asubuhi? Nzuri sana, asante. Maji ni uhai wa watu wote duniani.",
    "user assistant system model Today Jul 2024 [INST] [/INST] think </think>",
    "नमस्ते दुनिया, क्या हाल है?",
] * 3


@lru_cache
def _train_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def build_tokenizer(
    template: str | None = None,
    *,
    eos: str | None = "<|im_end|>",
    pad: str | None = "<pad>",
    bos: str | None = "<s>",
    trims_offsets: bool = False,
) -> Any:
    """Return a byte-level BPE of about 500 tokens."""
    copy = Tokenizer.from_str(_train_bpe().to_str())
    if trims_offsets:
        copy.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=copy,
        eos_token=eos,
        pad_token=pad,
        bos_token=bos,
        additional_special_tokens=SPECIALS,
    )
    tokenizer.chat_template = template
    return tokenizer
