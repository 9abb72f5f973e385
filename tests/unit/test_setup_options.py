"""Options of a domain that collide with a setting are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from seal.config import load_config
from seal.errors import ConfigError
from seal.setup import make_domain


@pytest.mark.parametrize(
    ("domain", "options", "name"),
    [
        ("few_shot_learning", {"batch_size": 2}, "batch_size"),
        ("knowledge_incorporation", {"split_newlines": False}, "split_newlines"),
        ("knowledge_incorporation", {"max_new_tokens": 9}, "max_new_tokens"),
    ],
)
def test_an_option_that_a_setting_gives_is_refused(domain: str, options: dict[str, Any], name: str) -> None:
    data = "builtin" if domain == "knowledge_incorporation" else "synthetic"
    settings = {"domain": domain, "data_config.dataset_name": data, "data_config.options": options}
    config = load_config(preset="test", overrides=settings)
    with pytest.raises(ConfigError, match=rf"data_config\.options\.{name}: a setting of its own"):
        make_domain(config, None)
