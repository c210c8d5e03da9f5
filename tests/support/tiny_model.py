"""A base model small enough for tests: a random Llama and a tokenizer trained on the spot, written to a local folder.

It has SmolLM2's shape in small (grouped key heads, tied embeddings) and its chat format: ChatML, with ``<|im_end|>`` for
both padding and end of turn. The same seed gives the same weights and the same tokenizer. It takes about a second; keep the
folder in a session fixture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Hermes' and Qwen's: tools in the system message, calls between markers, what tools returned as a user's turn.
TOOL_TEMPLATE = r"""{%- if messages[0].role == 'system' or tools %}{{ '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}
    {%- if tools %}{{ '\n\n# Tools\n<tools>' }}{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}{{ '\n</tools>' }}{% endif %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages if message.role != 'system' %}
    {%- if message.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response>' }}
    {%- else %}{{ '<|im_start|>' + message.role }}
        {%- if message.content or not message.tool_calls %}{{ '\n' + message.content }}{% endif %}
        {%- for call in message.tool_calls or [] %}
            {{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}{{ '}\n</tool_call>' }}
        {%- endfor %}
    {%- endif %}{{ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "Your input fields are: 1. `question` (str): Your output fields are: 1. `answer` (str):",
    "[[ ## question ## ]] Which class does the question ask for? [[ ## answer ## ]] human location number [[ ## completed ## ]]",
    "system user assistant You are a helpful assistant. What is the name of the city? Who wrote the book? How many are there?",
]
TOOL_CORPUS = [
    '# Tools <tools> {"type": "function", "function": {"name": "on_duty", "description": "Who answers for a team today.", "parameters": {',
    '<tool_call> {"name": "on_duty", "arguments": {"team": "billing"}} </tool_call> <tool_response> </tool_response> "type": "string"}},',
]


def build_tiny_model(
    folder: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    hidden: int = 64,
    vocabulary: int = 512,
    context_length: int = 2048,
    tools: bool = False,
) -> Path:
    """Write model and tokenizer into ``folder`` (made if missing) and return it. Needs torch and transformers; no network.

    With `tools` its chat template has tool calls, and it has words for them.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(vocabulary, tools=tools)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context_length,
        tie_word_embeddings=True,
        # The embeddings are also the output layer and stay frozen under LoRA: at the usual 0.02 no logit could stand out.
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            # It starts at zero as the padding token's, but it is the end-of-turn token too and must be sayable.
            model.get_input_embeddings().weight[tokenizer.pad_token_id].normal_(std=config.initializer_range)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def build_tokenizer(vocabulary: int = 512, *, tools: bool = False) -> Any:
    """A byte-level BPE tokenizer of at most ``vocabulary`` tokens in transformers' fast form, with the chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    bare.train_from_iterator([*CORPUS, *TOOL_CORPUS] if tools else CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    tokenizer.chat_template = TOOL_TEMPLATE if tools else CHAT_TEMPLATE
    return tokenizer
