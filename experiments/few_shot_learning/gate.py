"""Can a policy read the puzzle at all? `python experiments/few_shot_learning/gate.py CONFIG OUT [--whole]`.

Trains the policy of a config on the known recipes of its training puzzles (no inner loop, no rewards) and
counts the held-out puzzles for which it then chooses the known recipe. `--whole` learns every token of the
recipes instead of the choices alone. Where this fails, reinforcement learning has nothing to find. Minutes.
"""

from __future__ import annotations

import sys
from collections import Counter

from seal import SEALFramework, setup
from seal.config import load_config
from seal.constrained import choices_in
from seal.domains.few_shot import FewShotLearning
from seal.models.load import load_model
from seal.restem import Pair
from seal.run.folder import Run


def main(config_path: str, out: str, *options: str) -> None:
    """Train, choose, count."""
    config = load_config(config_path, overrides={"output_dir": out})
    with Run.create(out, config) as run:
        framework = SEALFramework(config, run=run)
        domain, tokenizer = framework.domain, framework.estep.policy.tokenizer
        assert isinstance(domain, FewShotLearning)
        known = {
            t.id: domain.reference_edits(t)["oracle"] for t in (*framework.data.train, *framework.data.val)
        }
        pairs = []
        for task in framework.data.train:
            choices = () if "--whole" in options else choices_in(known[task.id], domain.space)
            pairs.append(Pair(domain.prompt_for(task, tokenizer), known[task.id], choices=choices))
        folder = run.checkpoints / "policy-1"
        framework.optimizer.update(framework.estep.policy, pairs, folder, config.seed)
        policy = load_model(str(folder), config.device, config.dtype, config.prompts())
        estep = setup.estep(config, run, domain, framework.grader, policy, framework.writers)
        edits = estep.write(framework.data.val, 1, -1)
        families = Counter(edit.task_id.split("-")[0] for edit in edits)
        right = Counter(e.task_id.split("-")[0] for e in edits if e.completion == known[e.task_id])
        for family, count in sorted(families.items()):
            print(f"{family:<16} {right[family]:3d} of {count}")
        print(f"{'all':<16} {right.total():3d} of {families.total()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
