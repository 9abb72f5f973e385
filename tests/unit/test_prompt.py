"""The prompt contract: what every kind of tokenizer and chat template comes to, and what is refused."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import logging
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from seal import prompt_check, setup
from seal.data.halves import Halves
from seal.data.load_report import LoadReport
from seal.domains.answering import answer_prompt
from seal.domains.few_shot import FewShotLearning
from seal.domains.knowledge import KnowledgeIncorporation
from seal.errors import ConfigError, DataError, ModelError
from seal.inner.loop import LocalGenerator
from seal.models import builtin
from seal.models.load import LoadedModel, load_model
from seal.prompt import PromptContract, PromptSettings, contract_of
from seal.prompt_check import build_contract
from seal.records import Question, Sampling, Task
from seal.restem import completion_sequences

CHATML = builtin._CHATML
TASK = Task(
    "t1",
    "The bridge of Vell was built by Ada Menn.\nIt has forty lamps.",
    (Question("Who built it?", "Ada Menn", "Bridge"), Question("How many lamps?", "forty", "Bridge")),
    "Bridge",
)
GRIDS = Task(
    "g",
    (([[0, 1], [2, 3]], [[3, 2], [1, 0]]), ([[4, 1], [2, 5]], [[5, 2], [1, 4]])),
    (([[1, 1], [0, 2]], [[2, 0], [1, 1]]),),
)
EDIT = "Ada Menn built it.\nForty lamps burn."

#: SHA-256, cut, of what each built-in model reads: the self-edit prompt and its tokens, the questions with
#: and without the passage, the training sequences, the M-step's pair, the recipe prompt, the grids.
READ = {
    "smollm2-135m-instruct": "38d2af4aa7522fa3 6021e70214512010 c3bea29f132f5fd9 4502fe0adbd76865 "
    "0b0e05eb86e1fc44 731d698ceec7ac66 3a3cf84093366e80",
    "tiny-random-llama": "00ca2c7ba08b287d d49857633f0a107c 24f789fded874b51 7a5414e418c49fc5 "
    "1932f2358e913c01 2eebb64e907eba32 ab46c045eb7f3058",
    "tiny-random-qwen2": "a626c6ddecdb2ba5 2652b278ca1c5db1 0ff4913e8ebc84b5 7a5414e418c49fc5 "
    "4053a82d7fc55f83 dedafa874eddc5ad c50612cc8b0e0772",
    "tiny-random-gemma3": "00ca2c7ba08b287d 91cbd8869fe17aec fda33cc3158b21cf 1dba357d4c918736 "
    "c0a9321121a4a6ec 2eebb64e907eba32 0b053016c2dc8b64",
    "tiny-random-gpt2": "00ca2c7ba08b287d d49857633f0a107c 24f789fded874b51 7a5414e418c49fc5 "
    "1932f2358e913c01 2eebb64e907eba32 ab46c045eb7f3058",
}


def tokenizer(
    template: Any = None, *, eos: str | None = "<|endoftext|>", bos: bool = False, adds: str = ""
) -> PreTrainedTokenizerBase:
    """A byte tokenizer. `adds` is what it puts round texts, such as `<|startoftext|> $A <|endoftext|>`."""
    made = builtin.byte_tokenizer(chat=template is not None, starts=bos)
    made.eos_token = eos
    made.chat_template = template
    if adds:
        names = [name for name in builtin.SPECIAL_TOKENS if name in adds]
        ids = [(name, made.convert_tokens_to_ids(name)) for name in names]
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=adds, pair=f"{adds} {adds.replace('$A', '$B')}", special_tokens=ids
        )
    return made


def chain(*texts: str) -> dict[int, int]:
    """Next tokens for a model that recites `texts`: each character's follower, from the last one on."""
    specials = {name: 256 + n for n, name in enumerate(builtin.SPECIAL_TOKENS)}
    ids = [i for text in texts for i in ([specials[text]] if text in specials else list(text.encode()))]
    return dict(itertools.pairwise(ids))


def model_folder(
    folder: Path, tokenizer: PreTrainedTokenizerBase, follow: dict[int, int], **config: Any
) -> str:
    """A model whose next token depends on the last one alone."""
    size = 260
    settings: dict[str, Any] = {"eos_token_id": 256, "bos_token_id": None, "pad_token_id": 256} | config
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=size,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=size,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
            **settings,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        for last, following in follow.items():
            model.lm_head.weight[following, last] = 5.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def short(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def read(loaded: LoadedModel) -> str:
    """Hashes of all that a model is given to read."""
    tokenizer = loaded.tokenizer
    domain, grids = KnowledgeIncorporation(), FewShotLearning()
    prompt = domain.prompt_for(TASK, tokenizer)
    asked = domain.eval_prompts(TASK, tokenizer) + domain.context_prompts(TASK, tokenizer)
    pairs = completion_sequences(tokenizer, [(prompt, EDIT)])
    made = [
        prompt,
        loaded.contract.ids(prompt),
        [(p.ids, p.reference) for p in asked],
        [row.ids for row in domain.training_sequences(TASK, EDIT, tokenizer)],
        [(row.ids, row.loss) for row in pairs],
        grids.prompt_for(GRIDS, tokenizer),
        [(p.ids, p.reference) for p in grids.eval_prompts(GRIDS, tokenizer)],
    ]
    return " ".join(short(value) for value in made)


@pytest.mark.parametrize("name", [name for name in READ if name.startswith("tiny")])
def test_what_the_tiny_models_read_stays_byte_for_byte(name: str) -> None:
    assert read(load_model(name, "cpu", "float32")) == READ[name]


def test_what_the_built_in_model_reads_stays_byte_for_byte(smollm: LoadedModel) -> None:
    assert read(smollm) == READ["smollm2-135m-instruct"]
    assert smollm.contract.notes == ()
    assert smollm.contract.stops == {smollm.tokenizer.eos_token_id}


# -- one rule for the start token


def test_a_template_decides_about_the_start_token_in_every_prompt() -> None:
    made = tokenizer(CHATML, bos=True)
    contract, domain = contract_of(made), KnowledgeIncorporation()
    start = made.bos_token_id
    prompt = domain.prompt_for(TASK, made)
    assert start not in contract.ids(prompt)
    assert all(start not in p.ids for p in domain.eval_prompts(TASK, made))
    assert all(start not in p.ids for p in domain.context_prompts(TASK, made))
    (pair,) = completion_sequences(made, [(prompt, EDIT)])
    assert pair.ids[: len(contract.ids(prompt))] == contract.ids(prompt)
    base = KnowledgeIncorporation(chat=False)
    plain = [contract.ids(base.prompt_for(TASK, made))]
    plain += [p.ids for p in base.eval_prompts(TASK, made)]
    plain += [row.ids for row in base.training_sequences(TASK, EDIT, made)]
    assert all(ids[0] == start and start not in ids[1:] for ids in plain)


def test_a_start_token_from_both_sides_stands_once() -> None:
    made = tokenizer("{{ bos_token }}" + CHATML, bos=True)
    contract = contract_of(made)
    prompt = contract.user_turn("Who?")
    assert prompt.startswith("<|startoftext|><|im_start|>")
    assert contract.ids(prompt).count(made.bos_token_id) == 1
    assert contract.ids("<|startoftext|>Who?").count(made.bos_token_id) == 1
    twice = tokenizer(adds="<|startoftext|> <|startoftext|> $A", bos=True)
    assert contract_of(twice).ids("ab") == (259, 97, 98)


def test_a_template_with_two_start_tokens_is_refused() -> None:
    made = tokenizer("{{ bos_token }}{{ bos_token }}" + CHATML, bos=True)
    with pytest.raises(ModelError, match=r"begins with the start token .* twice"):
        KnowledgeIncorporation().prompt_for(TASK, made)


# -- end tokens


@pytest.mark.parametrize("template", [None, CHATML])
def test_an_end_token_that_the_tokenizer_adds_is_left_out(template: str | None) -> None:
    made = tokenizer(template, adds="$A <|endoftext|>")
    contract, domain = contract_of(made), KnowledgeIncorporation()
    assert made("ab")["input_ids"] == [97, 98, 256]
    assert any("'<|endoftext|>': left out" in note for note in contract.notes)
    prompt = domain.prompt_for(TASK, made)
    prompts = [contract.ids(prompt), *(p.ids for p in domain.eval_prompts(TASK, made))]
    rows = [row.ids for row in domain.training_sequences(TASK, EDIT, made)]
    assert all(256 not in ids for ids in prompts + rows)
    ended = KnowledgeIncorporation(append_eos=True).training_sequences(TASK, EDIT, made)
    assert all(row.ids[-1] == 256 and row.ids.count(256) == 1 for row in ended)
    (pair,) = completion_sequences(made, [(prompt, EDIT)])
    assert pair.ids.count(256) == (template is None)
    if template is None:
        codec = FewShotLearning().codec(made)
        assert all(256 not in p.ids for p in FewShotLearning().eval_prompts(GRIDS, made)), codec


def test_a_template_that_ends_the_prompt_with_the_end_token_loses_it() -> None:
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}{{ eos_token }}"
    )
    contract = contract_of(tokenizer(template))
    assert contract.user_turn("Who?") == "user: Who?\nassistant: "
    assert any("left out" in note for note in contract.notes)


def test_turns_that_end_with_the_end_token_keep_it() -> None:
    """DialoGPT: every turn ends with the end token, so the user's does too."""
    made = tokenizer("{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}")
    contract = contract_of(made)
    assert contract.user_turn("Who?") == "Who?<|endoftext|>"
    assert contract.is_templated("Who?<|endoftext|>")
    assert contract.user_text("Who?<|endoftext|>") == "Who?"
    assert not contract.is_templated("Implications:\n")
    assert any("kept" in note for note in contract.notes)


def test_a_tokenizer_without_end_token_gets_the_models(tmp_path: Path, caplog: Any) -> None:
    folder = model_folder(tmp_path / "m", tokenizer(eos=None), chain("\n", "Ada", "<|endoftext|>"))
    loaded = load_model(folder, "cpu")
    assert (loaded.tokenizer.eos_token, loaded.tokenizer.pad_token) == ("<|endoftext|>",) * 2
    assert "no end token" in caplog.text
    (pair,) = completion_sequences(loaded.tokenizer, [("Who?\n", "Ada")])
    assert pair.ids[-1] == 256


def test_a_model_without_any_end_token_is_refused_at_load(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", tokenizer(eos=None), {}, eos_token_id=None, pad_token_id=None)
    with pytest.raises(ModelError, match="neither the tokenizer nor the model's config has an end token"):
        load_model(folder, "cpu")


# -- the turn's end, and base models that ship a template


def test_a_base_model_with_a_template_is_asked_as_one_and_stops(tmp_path: Path, caplog: Any) -> None:
    follow = chain("\n", "Ada", "<|im_end|>", "user?") | chain(":", "A")
    folder = model_folder(tmp_path / "m", tokenizer(CHATML), follow)
    loaded = load_model(folder, "cpu")
    assert not loaded.contract.uses_chat()
    assert "it is asked as a base model" in caplog.text
    assert "<|im_start|>" not in KnowledgeIncorporation().prompt_for(TASK, loaded.tokenizer)
    domain = KnowledgeIncorporation(chat=True)
    assert _said(loaded, domain) == ("Ada", "Ada")
    assert _said(loaded, KnowledgeIncorporation()) == ("Ada", "Ada")


def test_an_instruct_model_is_asked_through_its_template(tmp_path: Path) -> None:
    follow = chain("\n", "Ada", "<|im_end|>", "user?")
    folder = model_folder(tmp_path / "m", tokenizer(CHATML), follow, eos_token_id=[256, 258])
    loaded = load_model(folder, "cpu")
    assert loaded.contract.uses_chat()
    assert loaded.contract.notes == ()
    assert _said(loaded, KnowledgeIncorporation()) == ("Ada", "Ada")
    prompt = KnowledgeIncorporation().prompt_for(TASK, loaded.tokenizer)
    assert loaded.contract.pair(prompt, "Ada").ids[-1] == 258  # the turn's end, not the end of text


def _said(loaded: LoadedModel, domain: KnowledgeIncorporation) -> tuple[str, str]:
    """What the engine writes and what the plain path answers."""
    prompt = domain.prompt_for(TASK, loaded.tokenizer)
    (written,) = LocalGenerator(loaded).generate([prompt], Sampling(temperature=0.0, max_new_tokens=40), [1])
    answer = answer_prompt(loaded.model, loaded.tokenizer, domain.eval_prompts(TASK, loaded.tokenizer)[0])
    assert written.finish == answer.finish == "stop"
    return written.text, answer.text


def test_both_paths_stop_at_the_tokenizers_end_and_ignore_penalties(tmp_path: Path) -> None:
    follow = chain(":", "AdA", "\n") | chain("A", "da", "<|im_end|>", "user?")
    made = tokenizer(eos="<|im_end|>")
    folder = Path(model_folder(tmp_path / "m", made, {**follow, ord("A"): ord("d")}))
    plain = json.loads((folder / "generation_config.json").read_text())
    penalties = {"repetition_penalty": 1.9, "suppress_tokens": [ord("d")], "min_new_tokens": 9}
    (folder / "generation_config.json").write_text(json.dumps(plain | penalties))
    loaded = load_model(str(folder), "cpu")
    assert loaded.contract.stops == {256, 258}
    sampling = Sampling(temperature=0.0, max_new_tokens=40)
    (written,) = LocalGenerator(loaded).generate(["Who?\nAnswer:"], sampling, [1])
    domain = KnowledgeIncorporation()
    answer = answer_prompt(loaded.model, loaded.tokenizer, domain.eval_prompts(TASK, loaded.tokenizer)[0])
    assert (written.text, written.finish) == (answer.text, answer.finish) == ("Ada", "stop")
    assert len(loaded.contract.text_ids("Ada")) == answer.n_tokens == written.n_tokens
    assert loaded.model.generation_config.repetition_penalty == 1.9


# -- thinking


def test_thinking_is_off_by_default_and_the_users_to_switch_on() -> None:
    off = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    made = tokenizer(CHATML.replace("assistant\n{% endif %}", "assistant\n" + off + "{% endif %}"))
    assert contract_of(made).user_turn("Who?").endswith("assistant\n<think>\n\n</think>\n\n")
    on = build_contract(made, PromptSettings({"enable_thinking": True}))
    assert on.user_turn("Who?").endswith("<|im_start|>assistant\n")


def test_a_thought_that_the_template_opens_is_closed() -> None:
    made = tokenizer(CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"))
    contract = contract_of(made)
    assert contract.user_turn("Who?").endswith("assistant\n<think>\n\n</think>\n\n")
    assert any("opens a thought" in note for note in contract.notes)
    assert contract.user_text(contract.user_turn("Who?")) == "Who?"


def test_marks_of_thoughts_that_are_special_tokens_survive_in_text() -> None:
    made = tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    ids = [made.convert_tokens_to_ids("[THINK]"), *b"hm", made.convert_tokens_to_ids("[/THINK]"), *b"Ada"]
    assert contract_of(made).decode(ids) == "[THINK]hm[/THINK]Ada"
    assert contract_of(made).decode([*b"Ada", 256]) == "Ada"


# -- dates


def test_a_template_that_prints_today_is_told_a_fixed_day() -> None:
    head = "{{ bos_token }}Today: {% if not date_string is defined %}"
    head += "{% set date_string = strftime_now('%d %b %Y') %}"
    made = tokenizer(head + "{% endif %}{{ date_string }} {{ strftime_now('%Y') }}\n" + CHATML, bos=True)
    contract = contract_of(made)
    assert "Today: 26 Jul 2024 2024\n" in contract.user_turn("Who?")
    assert any("prints a date: it is told 2024-07-26" in note for note in contract.notes)
    told = build_contract(made, PromptSettings(date="2031-02-03"))
    assert "Today: 03 Feb 2031 2031\n" in told.user_turn("Who?")


def test_a_template_that_differs_every_time_is_refused() -> None:
    made = tokenizer("{{ range(10 ** 5) | random }}" + CHATML)
    with pytest.raises(ModelError, match="another prompt every time"):
        contract_of(made).user_turn("Who?")


# -- templates that lose the text


NO_PARTS = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}x{% endif %}"
    "{% endfor %}{% endfor %}"
)
LOSING: dict[str, tuple[Any, str]] = {
    "parts without text": (NO_PARTS, "loses the user's text"),
    "named": ({"tool_use": CHATML}, "none by default: only tool_use"),
    "raises": ("{{ raise_exception('System prompt is required') }}", "System prompt is required"),
    "syntax": ("{% for m in %}", "cannot be applied"),
    "system only": (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}{% endfor %}",
        "loses",
    ),
    "upper case": (CHATML.replace("m['content']", "m['content'] | upper"), "changes"),
    "escaped": (CHATML.replace("m['content']", "m['content'] | e"), "changes"),
    "cut": (CHATML.replace("m['content']", "m['content'][:2000]"), "characters as it is"),
    "twice": (CHATML.replace("m['content']", "m['content'] * 2"), "as it is"),
    "constant": ("<|im_start|>assistant\n", "loses"),
}


@pytest.mark.parametrize("kind", LOSING)
def test_a_template_that_loses_or_changes_the_text_is_refused_in_one_line(kind: str) -> None:
    template, why = LOSING[kind]
    made = tokenizer(template)
    with pytest.raises(ModelError, match=why) as refused:
        KnowledgeIncorporation().prompt_for(TASK, made)
    assert "\n" not in str(refused.value)
    assert "data_config.options.chat" in refused.value.fix
    assert "Implications" in KnowledgeIncorporation(chat=False).prompt_for(TASK, made)
    with pytest.raises(ModelError, match=why):
        FewShotLearning().eval_prompts(GRIDS, made)


def test_a_template_of_parts_gets_parts() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
        "{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    contract = contract_of(tokenizer(template))
    assert contract.user_turn("THE PASSAGE") == (
        "<|im_start|>user\nTHE PASSAGE<|im_end|>\n<|im_start|>assistant\n"
    )
    assert any("lists of parts" in note for note in contract.notes)


def test_a_template_that_forgets_the_answers_header_gets_it() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    )
    contract = contract_of(tokenizer(template))
    assert contract.user_turn("Who?") == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_that_strips_may_and_pairs_still_fit() -> None:
    made = tokenizer(CHATML.replace("m['content']", "m['content'] | trim"))
    contract = contract_of(made)
    assert contract.problem is None
    assert contract.user_text(contract.user_turn("  Who? \n")) == "Who?"


def test_a_template_that_drops_one_text_is_refused_for_that_text() -> None:
    kept = "{{ '' if 'secret' in m['content'] else m['content'] }}"
    made = tokenizer(CHATML.replace("{{ m['content'] }}", kept))
    assert contract_of(made).user_turn("Who?")
    with pytest.raises(ModelError, match="a text of 11 characters"):
        contract_of(made).user_turn("secret lamp")


LOOP = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
TOO_MUCH = {
    "a loop": (LOOP, "takes more than 1 s for a prompt of a few words"),
    "a loop for conversations": (
        f"{{% if messages | length > 1 %}}{LOOP}{{% endif %}}",
        "takes more than 1 s for a prompt of a few words",
    ),
    "a text": ("{{ 'a' * 10 ** 10 }}", "needs more than 64 MiB of memory"),
    "texts that double": (
        "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "needs more than 64 MiB of memory",
    ),
    "what fits, and is far too long": ("{{ 'a' * 2 ** 21 }}", "makes [0-9]+ characters of 53"),
}


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_a_template_without_bounds_is_refused_in_one_line(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found out in a process of its own: this one stays small, and the model can be asked as a base model."""
    monkeypatch.setattr(prompt_check, "_SECONDS", 1)
    monkeypatch.setattr(prompt_check, "_MEBIBYTES", 64)
    hostile, why = TOO_MUCH[kind]
    made = tokenizer(hostile + CHATML)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=f"the chat template {why}") as refused:
        contract_of(made).uses_chat()
    assert "\n" not in str(refused.value)
    assert "data_config.options.chat" in refused.value.fix
    assert not contract_of(made).uses_chat(wanted=False)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10, "KiB"


def test_a_template_is_tried_once_a_process() -> None:
    """Every policy of a run has the same."""
    prompt_check._overruns.clear()
    for _ in range(3):
        assert contract_of(tokenizer(CHATML)).uses_chat()
    assert list(prompt_check._overruns.values()) == [""]


def test_chat_without_a_template_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="no chat template"):
        contract_of(tokenizer()).uses_chat(True)


# -- tokenizers of other models


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", tokenizer(), {})
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["vocab_size"] == 260
    made = tokenizer()
    made.add_special_tokens({"eos_token": "<end>"})
    made.save_pretrained(folder)
    with pytest.raises(ModelError, match="token 260 and the model knows 260"):
        load_model(folder, "cpu")


def test_a_pad_token_beyond_the_model_is_replaced(tmp_path: Path) -> None:
    made = tokenizer()
    made.add_special_tokens({"pad_token": "[PAD]"})
    loaded = load_model(model_folder(tmp_path / "m", made, {}), "cpu")
    assert loaded.tokenizer.pad_token_id == 256


# -- the contract goes with its tokenizer


def test_copies_of_a_tokenizer_have_its_contract(tiny: Callable[..., LoadedModel]) -> None:
    loaded = load_model("tiny-random-qwen2", "cpu", prompts=PromptSettings({"flavour": "mild"}))
    assert contract_of(loaded.tokenizer) is loaded.contract
    again = copy.deepcopy(loaded.tokenizer)
    assert contract_of(again).settings.arguments == {"flavour": "mild"}
    assert contract_of(again).tokenizer is again
    again.chat_template = None
    assert not contract_of(again).uses_chat()


def test_notes_are_said_once(tmp_path: Path, caplog: Any) -> None:
    folder = model_folder(tmp_path / "m", tokenizer(adds="$A <|im_end|>"), {})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            load_model(folder, "cpu")
    assert caplog.text.count("ends every text with '<|im_end|>'") == 1


# -- any template is served rightly or refused


def _templates() -> st.SearchStrategy[str]:
    content = st.sampled_from(
        [
            "{{ m['content'] }}",
            "{{ m['content'] | trim }}",
            "{{ m['content'] | upper }}",
            "{{ m['content'] | e }}",
            "{{ m['content'][:500] }}",
            "{{ m['content'] | replace('\\n', ' ') }}",
            "{% if m['content'] | length < 1000 %}{{ m['content'] }}{% endif %}",
            "{{ m['content'].split('</think>')[-1] }}",
            "{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}",
            "{% for c in m['content'] %}{{ c['text'] }}{% endfor %}",
            "{{ m.text }}",
            "",
        ]
    )
    twice, today = "{{ bos_token }}{{ bos_token }}", "{{ strftime_now('%d %b %Y') }}\n"
    begin = st.sampled_from(["", "{{ bos_token }}", twice, today, "Be kind.\n"])
    before = st.sampled_from(["<|im_start|>{{ m['role'] }}\n", "{{ m['role'] }}: ", ""])
    behind = st.sampled_from(["<|im_end|>\n", "{{ eos_token }}", "\n", ""])
    header = st.sampled_from(
        ["<|im_start|>assistant\n", "assistant: ", "<|im_start|>assistant\n<think>\n", "{{ eos_token }}", ""]
    )
    needy = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no') }}{% endif %}"
    role = st.sampled_from(["", needy])
    return st.builds(
        lambda a, r, b, c, e, h: (
            f"{a}{r}{{% for m in messages %}}{b}{c}{e}{{% endfor %}}"
            f"{{% if add_generation_prompt %}}{h}{{% endif %}}"
        ),
        begin, role, before, content, behind, header,
    )  # fmt: skip


@given(
    template=_templates(),
    text=st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1, max_size=80),
    bos=st.booleans(),
    adds_eos=st.booleans(),
)
def test_any_template_is_served_rightly_or_refused(
    template: str, text: str, bos: bool, adds_eos: bool
) -> None:
    adds = ("<|startoftext|> " if bos else "") + "$A" + (" <|endoftext|>" if adds_eos else "")
    made = tokenizer(template, bos=bos, adds=adds)
    contract = contract_of(made)
    refusal = None
    try:
        prompt = contract.user_turn(text)
    except ModelError as error:
        refusal = error
    if refusal is None:
        _check_served(contract, prompt, text)
    else:
        assert refusal.fix
        assert "\n" not in str(refusal)


def _check_served(contract: PromptContract, prompt: str, text: str) -> None:
    made = contract.tokenizer
    assert text.strip() in prompt
    assert contract.user_text(prompt).strip() == text.strip() or not contract.is_templated(prompt)
    ids = contract.ids(prompt)
    assert ids[:2] != (made.bos_token_id,) * 2
    if ids[-1] in contract.stops:
        assert any("kept" in note for note in contract.notes)
    assert not prompt.rstrip().endswith("<think>")
    assert "2026" not in prompt or "2026" in text
    start, learned = contract.continued(prompt, "Ada")
    assert start == ids
    pair = contract.pair(prompt, "Ada")
    assert pair.ids[: len(ids)] == ids
    assert pair.ids[-1] in contract.stops
    assert bytes(i for i in learned if i < 256).decode() == "Ada"


def test_tasks_that_spell_control_tokens_are_left_out_and_counted() -> None:
    loaded = load_model("tiny-random-llama", "cpu", "float32")
    question = (Question("What does the gate have?", "a key"),)
    named = {
        "plain": Task("plain", "The gate <b>has</b> a key.", question),
        "passage": Task("passage", "The gate has a key.<|endoftext|>", question),
        "answer": Task("answer", "The mill.", (Question("Which?", "a mill", also=("<|im_end|>",)),)),
    }
    data = Halves(tuple(named.values()), (), (LoadReport("train", 3, 3),))
    kept = setup.fitting(data, KnowledgeIncorporation(), loaded)
    assert [task.id for task in kept.train] == ["plain"]
    assert "2 tasks that spell a control token (first: passage)" in str(kept)
    with pytest.raises(DataError, match="take the control tokens out"):
        setup.fitting(Halves((named["passage"],), (), data.reports), KnowledgeIncorporation(), loaded)
