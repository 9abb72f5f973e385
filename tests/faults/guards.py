"""Guards of the code, and what each would be without: a mutant that the tests must catch.

A mutant replaces `old`, which stands exactly once in `file` (below `src/seal`), by `new`; `tests` are those that
fail then, as pytest takes them. `tests/faults/mutants.py` plays them through.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One guard taken away."""

    name: str
    file: str
    old: str
    new: str
    tests: str


_JOURNAL, _RUN = "test_journal.py", "test_run_integrity.py"
_DURABLE, _WHOLE, _MESSAGES, _SERVER = (
    "test_durability.py",
    "test_whole_file.py",
    "test_serve_messages.py",
    "test_serve_server.py",
)
_REMOTE, _GRADING, _ENGINE = "test_remote.py", "test_grading.py", "test_inner_adapt.py"

MUTANTS = (
    # --- the journal
    Mutant("journal without fsync", "run/journal.py", "            os.fsync(self._file)\n        except", "        except", _DURABLE),
    Mutant("torn line cut off before it is kept", "run/journal.py", "            os.fsync(out.fileno())\n", "", _DURABLE),
    Mutant("cut journal not flushed", "run/journal.py", "        os.ftruncate(self._file, good)\n        os.fsync(self._file)", "        os.ftruncate(self._file, good)", _DURABLE),
    Mutant("half a line stays after an error", "run/journal.py", "os.ftruncate(self._file, self._size)", "pass", f"{_JOURNAL} {_DURABLE}"),
    Mutant("no checksum of lines", "run/journal.py", """    if line[-_TAIL:] != b',"sum":"' + _checksum(body) + b'"}':\n        return None\n""", "", f"{_JOURNAL} -k corrupt"),
    Mutant("line numbers not checked", "run/journal.py", 'return Row(**fields) if fields["n"] == n else None', "return Row(**fields)", f"{_JOURNAL} -k corrupt"),
    Mutant("a corrupt line ends the journal silently", "run/journal.py", "if 0 <= end < len(content) - 1:", "if False:", f"{_JOURNAL} -k corrupt"),
    Mutant("no lock file", "run/journal.py", "            self._lock.acquire()\n", "", f"{_RUN} {_JOURNAL} -k 'second_process or one_process or fence or lock'"),
    Mutant("no lock of the journal itself", "run/journal.py", "fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass", f"{_RUN} -k lock_file"),
    Mutant("no fence before a write", "run/journal.py", "        self._check_alone()\n", "", f"{_RUN} -k 'lost_its or zombie'"),
    Mutant("the same item twice", "run/journal.py", "        return known is not None\n", "        return False\n", f"{_JOURNAL} -k same_item"),
    Mutant("other data for an item accepted", "run/journal.py", "if known is not None and known.data != data:", "if False:", f"{_JOURNAL} -k same_item"),
    Mutant("a journal may be a link", "run/journal.py", "if file.is_symlink():", "if False:", f"{_RUN} -k 'no_link'"),
    # --- the run folder
    Mutant("whole files without fsync", "whole_file.py", "            os.fsync(file.fileno())\n", "", _DURABLE),
    Mutant("files written in place", "whole_file.py", "part = path.with_name(", "part = path or path.with_name(", f"{_DURABLE} {_RUN} -k 'write_that_fails or beside'"),
    Mutant("what killed processes left stays", "whole_file.py", "                    remove(path)\n", "                    pass\n", f"{_WHOLE} -k killed"),
    Mutant("what others are writing is taken away", "whole_file.py", "                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", "", f"{_WHOLE} -k killed"),
    Mutant("half-written policies stay", "run/folder.py", "                run._clear_partial()\n", "", f"{_RUN} -k half_written"),
    Mutant("every hidden folder is cleared away", "run/folder.py", "if _PARTIAL.fullmatch(entry.name) and", 'if entry.name.startswith(".") and', f"{_RUN} -k half_written"),
    Mutant("a policy's name may lead anywhere", "run/folder.py", "if not _POLICY.fullmatch(checkpoint):", "if False:", f"{_RUN} -k outside_the_run"),
    Mutant("links in a run folder are followed", "run/folder.py", "        _refuse_links(path)\n", "", f"{_RUN} -k link"),
    Mutant("settings not checked", "run/folder.py", "        fingerprint.check_sum(file)\n", "        pass\n", f"{_RUN} -k settings"),
    Mutant("settings without checksum pass", "run/fingerprint.py", "if head != _HEAD + _digest(settings):", "if head.startswith(_HEAD) and head != _HEAD + _digest(settings):", f"{_RUN} -k settings"),
    Mutant("strangers' classes are run", "run/folder.py", "            fingerprint.check_classes(config, path)\n", "            pass\n", f"{_RUN} -k elsewhere"),
    Mutant("a report runs strangers' classes", "report/history.py", "        fingerprint.check_classes(config, Path(config.output_dir))\n", "", f"{_RUN} -k elsewhere"),
    Mutant("any function may be called", "plugins.py", "if base is not None and not issubclass(kind, base):", "if False:", f"{_RUN} -k documented_kinds"),
    Mutant("any object loads data", "plugins.py", "if method and not callable(getattr(kind, method, None)):", "if False:", f"{_RUN} -k documented_kinds"),
    Mutant("a journal may ask for any command", "cli/resume.py", "if step.command[0] not in pipeline.STEPS:", "if False:", f"{_RUN} -k any_command"),
    Mutant("a run in use is begun again", "run/folder.py", 'if (path / "config.yaml").exists():', "if False:", "test_run.py -k overwritten"),
    Mutant("chat templates not bounded", "prompt_check.py", "    if why := _overruns[read_with]:", "    if why := '':", "test_prompt.py -k 'without_bounds and loop'"),
    Mutant("chat template's length not bounded", "prompt_check.py", "            if len(prompt) > len(_TEXT) + _LONGEST:", "            if False:", "test_prompt.py -k without_bounds"),
    Mutant("lack of memory is a bug", "errors.py", "any(words in str(error) for words in _NO_MEMORY)", "False", "test_cli.py -k exit_code"),
    Mutant("secrets in settings", "run/folder.py", '        refuse_secrets(config.model_dump(mode="json"))\n', "", "test_run.py -k holds_a_secret"),
    Mutant("secrets in logs", "run/log.py", "if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name) and value in text:", "if False:", "test_run.py -k secret"),
    Mutant("passwords of addresses in logs", "run/log.py", 'return _IN_ADDRESS.sub("***", text)', "return text", "test_run.py -k credentials"),
    # --- policies
    Mutant("files of a folder without fsync", "whole_file.py", "            _flush(inner)\n", "            pass\n", _DURABLE),
    Mutant("folder without fsync", "whole_file.py", "        _flush(staging)\n", "", _DURABLE),
    Mutant("rename not flushed", "whole_file.py", "        _flush(path.parent)\n", "", _DURABLE),
    Mutant("half a folder stays after an error", "whole_file.py", "        _remove_folder(folder)\n        os.close", "        os.close", f"{_DURABLE} {_WHOLE} -k 'fails or whole_or_not'"),
    Mutant("any folder is replaced", "models/checkpoint.py", "if folder.exists() and not (folder.is_dir() and _replaceable(folder)):", "if False:", "test_load.py -k never_replaced"),
    Mutant("hashes not compared", "models/checkpoint.py", "if file_digest(folder / name, trust_times=not deep) != digest:", "if False:", f"{_RUN} -k kept_size"),
    Mutant("mtime alone is trusted", "models/checkpoint.py", "stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]", "stat.st_mtime_ns]", f"{_RUN} -k kept_size"),
    Mutant("files beside the manifest pass", "models/checkpoint.py", "        if strange:\n", "        if False:\n", f"{_RUN} -k no_manifest_names"),
    # --- the server
    Mutant("no limit of bytes", "serve/messages.py", "if len(raw) > limits.bytes:", "if False:", f"{_MESSAGES} -k sizes"),
    Mutant("no limit of depth", "serve/messages.py", 'if b"[]" in brackets or brackets.count(b"[") > most:', "if False:", f"{_MESSAGES} -k everything_else"),
    Mutant("strings searched again and again", "serve/messages.py", """rb'"(?:[^"\\\\]++|\\\\.)*+"?'""", """rb'"(?:[^"\\\\]|\\\\.)*"'""", f"{_MESSAGES} -k costs_more"),
    Mutant("keys twice", "serve/messages.py", "if len(found) != len(pairs):", "if False:", f"{_MESSAGES} -k everything_else"),
    Mutant("any number of keys", "serve/messages.py", "if len(pairs) > most:", "if False:", f"{_MESSAGES} -k everything_else"),
    Mutant("NaN accepted", "serve/messages.py", "parse_constant=_no_constant,", "", f"{_MESSAGES} -k everything_else"),
    Mutant("a million errors", "training_config.py", "    FirstError(),\n    BeforeValidator(_names)", "    BeforeValidator(_names)", f"{_MESSAGES} -k targets"),
    Mutant("half characters accepted", "serve/messages.py", "        text.encode()\n", "        pass\n", f"{_MESSAGES} -k everything_else"),
    Mutant("ranks without limit", "serve/messages.py", '    within("lora_rank", request.lora_rank, limits.rank)\n', "", f"{_MESSAGES} -k everything_else"),
    Mutant("loss spans may leave the row", "serve/jobs.py", "if not inside or sum(", "if sum(", f"{_MESSAGES} -k would_harm"),
    Mutant("token ids not checked", "serve/jobs.py", "if lowest < 0 or highest >= vocabulary:", "if False:", f"{_MESSAGES} -k would_harm"),
    Mutant("open to strangers", "serve/settings.py", "if not is_loopback(self.host) and not (self.keys and self.allowed):", "if False:", f"{_SERVER} -k loopback"),
    Mutant("every key is let in", "serve/security.py", "return key.decode() in self._allowed", "return True", f"{_SERVER} -k curve"),
    Mutant("anybody may end the server", "serve/server.py", "if not (right and settings.allow_shutdown):", "if False:", f"{_SERVER} -k needs_the_right"),
    Mutant("queue without bound", "serve/scheduler.py", "if len(self.pending) >= self.settings.capacity:", "if False:", f"{_SERVER} -k busy"),
    Mutant("the same key trains twice", "serve/scheduler.py", "self.pending.join(subscriber, key, digest) or ", "", f"{_SERVER} -k 'sent_twice'"),
    Mutant("replies are not sent again", "serve/scheduler.py", " or self._resend(subscriber, key, digest, text)", "", f"{_SERVER} -k 'trains_once'"),
    Mutant("a key for other content", "serve/store.py", "if known != digest:", "if False:", f"{_SERVER} -k other_content"),
    Mutant("an ungraded reply is stored", "serve/scheduler.py", "if not _ungraded(outcome):", "if True:", f"{_SERVER} -k outage"),
    Mutant("stored replies without checksum", "serve/store.py", "if found != self._sum(key, known, body):", "if False:", f"{_SERVER} -k damaged"),
    Mutant("repeats forgotten in a restart", "serve/store.py", "return 0 if row is None else int(row[0])\n\n    def count", "return 0\n\n    def count", f"{_SERVER} -k repeat"),
    Mutant("an ended server fails its drivers", "serve/exchange.py", '("busy", "shutting_down")', '("busy",)', f"{_SERVER} -k ended_and_started"),
    Mutant("no deadline of a request", "serve/pending.py", "        if seconds is not None:\n", "        if False:\n", f"{_SERVER} -k deadline"),
    Mutant("a grader's outage is wrong", "graded.py", "return [(Verdict.ERROR, str(error))]", "return [(Verdict.WRONG, str(error))]", "test_graded.py"),
    # --- judges and generators
    Mutant("an excuse is a verdict", "grading.py", "re.fullmatch(r\"[\\W_]*(yes|no)[\\W_]*\"", "re.match(r\"[\\W_]*(yes|no)\\b\"", f"{_GRADING} -k never_wrong"),
    Mutant("an outage is wrong", "grading.py", 'return Grade(Verdict.ERROR, f"{self._remote.where}: {self._remote.reason(error)}")', "return Grade(Verdict.WRONG)", f"{_GRADING} -k never_wrong"),
    Mutant("no completion is wrong", "grading.py", "return Grade(Verdict.ERROR, str(error))", "return Grade(Verdict.WRONG)", f"{_REMOTE} -k no_verdict"),
    Mutant("no second try", "grading.py", "stop=stop_after_attempt(self._attempts),", "stop=stop_after_attempt(1),", f"{_GRADING} -k retried"),
    Mutant("redirects followed", "remote.py", "follow_redirects=False,", "follow_redirects=True,", f"{_REMOTE} -k redirect"),
    Mutant("replies of any size", "remote.py", "if size > MOST_BYTES:", "if False:", f"{_REMOTE} -k huge"),
    Mutant("compressed replies unpacked", "remote.py", 'if response.headers.get("content-encoding", "identity") != "identity":', "if False:", f"{_REMOTE} -k compressed"),
    Mutant("no deadline of a reply", "remote.py", "asyncio.wait_for(reply, self._timeout)", "asyncio.wait_for(reply, 60)", f"{_REMOTE} -k trickles"),
    Mutant("the key in a reason", "remote.py", 'text = text.replace(self._key, "***")', "pass", f"{_REMOTE} -k holds_a_key"),
    # --- training, rewards, seeds
    Mutant("seeds of order alone", "seeds.py", "[str(seed), *map(str, names)]", "[str(seed), *sorted(map(str, names))]", "test_seeds.py"),
    Mutant("seeds without the run's", "seeds.py", "[str(seed), *map(str, names)]", "[*map(str, names)]", "test_seeds.py"),
    Mutant("no warm-up", "schedule.py", "    if step < warmup:\n", "    if False:\n", "test_lora_wrapper.py -k hugging_faces"),
    Mutant("the last step not counted", "schedule.py", "return math.ceil(n_rows / sequences_per_step(training))", "return n_rows // sequences_per_step(training) or 1", "test_lora_wrapper.py -k cover_every_row"),
    Mutant("LoRA unscaled", "inner/adapter.py", "self.scale = training.alpha / training.rank", "self.scale = 1.0", f"{_ENGINE} -k 'fp64_the_engine and llama'"),
    Mutant("no clipping", "inner/optimiser.py", "        grad_scale=scale, amsgrad", "        grad_scale=None, amsgrad", f"{_ENGINE} -k cut_to_nothing"),
    Mutant("no clipping in fp64", "inner/optimiser.py", "            grad.div_(scale)\n", "            pass\n", f"{_ENGINE} -k 'fp64_the_engine and llama'"),
    Mutant("a loss that is not finite goes on", "inner/fit.py", "if not (math.isfinite(loss) and math.isfinite(norm)):", "if False:", f"{_ENGINE} -k diverges"),
    Mutant("one dropout for all", "inner/fit.py", 'derive(job.seed, "dropout", step, len(found))', 'derive(0, "dropout", step, len(found))', f"{_ENGINE} -k own_dropout"),
    Mutant("dropout unscaled", "inner/dropout.py", ".mul_(self.scale_T1[own].to(dtype))", "", f"{_ENGINE} -k right_rate"),
    Mutant("the prompt is learned", "records.py", "spans = self.loss or ((1, len(self.ids)),)", "spans = ((1, len(self.ids)),)", "test_lora_wrapper.py test_restem.py -k 'labelled or mask'"),
    Mutant("the first token is learned", "records.py", "range(max(a, 1),", "range(max(a, 0),", "test_records.py"),
    Mutant("rewards at the threshold are kept", "selection.py", "kept = reward.value > threshold", "kept = reward.value >= threshold", "test_restem.py -k above_the_threshold"),
    Mutant("no floor", "selection.py", "floor = (floors or {}).get(task_id, -math.inf)", "floor = -math.inf", "test_restem.py -k more_than_the_baseline"),
    Mutant("a job's outcome twice", "pool.py", "if event.outcome.job_id in work.missing:", "if True:", "test_pool_simulation.py -k thousand"),
    Mutant("text of models is markup", "report/page.py", "autoescape=escape,", "autoescape=False,", "test_report.py -k hostile"),
)  # fmt: skip
"""In the order of the packages; a line each, however long."""
