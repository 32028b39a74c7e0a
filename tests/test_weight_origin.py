"""Where weights come from: real fine-tunes of small models, and what bytes, logs, configurations and chains say."""

import dataclasses
import json

import numpy as np
import pytest
import weight_study_jax
import weight_study_torch

from provenance.weights.candidates import Candidate, recognise
from provenance.weights.chain import AttemptEvidence
from provenance.weights.evidence import Level, Says, Verdict
from provenance.weights.fingerprint import Fingerprint, leaf_fingerprint
from provenance.weights.leaves import WeightsError
from provenance.weights.openpi_log import LoaderSetting, LogFacts, loader_setting, parse_log
from provenance.weights.origin import judge_origin

PROVEN, CONTRADICTED, UNDETERMINED = Verdict.PROVEN, Verdict.CONTRADICTED, Verdict.UNDETERMINED
BASE = LoaderSetting("gs://openpi-assets/checkpoints/pi05_base/params")
LIBERO = LoaderSetting("/elsewhere/checkpoints/pi05_libero/params")
NONE = LoaderSetting(None)
FRESH_FROM_BASE = AttemptEvidence("first", "fresh", config=BASE)


@pytest.fixture(scope="module", params=["orbax", "torch", "safetensors"])
def study(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "orbax":
        return weight_study_jax.write_study(folder)
    return weight_study_torch.write_study(folder, {"torch": ".pt", "safetensors": ".safetensors"}[request.param])


@pytest.fixture(scope="module")
def openpi(tmp_path_factory):
    return weight_study_jax.write_study(tmp_path_factory.mktemp("openpi"))


def judge(study, run, *attempts, candidates=(), **options):
    return judge_origin(study.fingerprint(run), study.candidates(*candidates), attempts, **options)


def of_level(found, level):
    return [piece for piece in found.evidence if piece.level is level]


# --- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "base", "sibling"),
    [
        ("lora_from_base", "pi05_base", "pi05_libero"),
        ("lora_from_libero", "pi05_libero", "pi05_base"),
        ("resumed_from_base", "pi05_base", "pi05_libero"),
    ],
)
def test_frozen_leaves_prove_the_base_of_a_lora_fine_tune(study, run, base, sibling):
    found = judge(study, run)
    assert (found.verdict, found.base) == (PROVEN, base)
    assert found.of_each == {base: PROVEN, sibling: CONTRADICTED, "scratch": CONTRADICTED}
    assert found.deciding == found.leaves.equal[base] and found.leaves.equal[sibling] == ()
    assert all(name.startswith("llm") and "norm" not in name for name in found.deciding)  # the siblings share that one
    n, total = len(found.deciding), len(found.leaves.discriminating)
    assert 0 < n < total
    assert found.sentence == (
        f"PROVEN: the weights are of {base}: {n} of {total} discriminating leaves equal {base}, 0 equal {sibling}"
    )


def test_a_claim_is_proven_or_contradicted_by_the_same_leaves(study):
    right, wrong = (judge(study, "lora_from_base", claimed=name) for name in ("pi05_base", "pi05_libero"))
    assert (right.verdict, wrong.verdict, wrong.base) == (PROVEN, CONTRADICTED, "pi05_base")
    assert right.deciding == wrong.deciding != ()
    assert wrong.sentence.startswith("pi05_libero is CONTRADICTED: the weights are of pi05_base")


def test_leaves_without_a_gradient_prove_the_family_and_not_which_of_the_siblings(study):
    found = judge(study, "full_from_base", candidates=("pi05_base", "pi05_libero", "stranger"))
    assert (found.verdict, found.base) == (UNDETERMINED, None)
    assert found.of_each == {
        "pi05_base": UNDETERMINED,
        "pi05_libero": UNDETERMINED,
        "stranger": CONTRADICTED,
        "scratch": CONTRADICTED,
    }
    assert "pi05_base and pi05_libero share those that are unchanged" in found.sentence
    assert judge(study, "full_from_base", candidates=("pi05_base", "stranger")).base == "pi05_base"
    documented = judge(study, "full_from_base", FRESH_FROM_BASE, candidates=("pi05_base", "pi05_libero", "stranger"))
    assert (documented.verdict, documented.base) == (PROVEN, "pi05_base")


@pytest.mark.parametrize("run", ["full_of_everything", "scratch"])
def test_where_every_leaf_was_trained_bytes_decide_nothing_and_prove_no_scratch(study, run):
    found = judge(study, run)
    assert (found.verdict, found.base, found.deciding) == (UNDETERMINED, None, ())
    assert set(found.of_each.values()) == {UNDETERMINED}
    assert not found.leaves.any_equal and "training may have changed every leaf" in found.sentence


def test_leaves_that_were_frozen_and_differ_rule_a_candidate_out(study):
    frozen = ["llm*embedder*", "llm*attn*"]
    found = judge(study, "lora_from_libero", candidates=("pi05_base",), untouched=frozen, claimed="pi05_base")
    assert found.verdict is CONTRADICTED and len(found.deciding) > 1
    assert judge(study, "scratch", untouched=frozen).verdict is CONTRADICTED  # of none of the candidates
    assert judge(study, "lora_from_base", untouched=frozen).base == "pi05_base"
    document = judge(study, "full_of_everything", FRESH_FROM_BASE, untouched=frozen)
    assert document.of_each["pi05_base"] is CONTRADICTED and "the bytes count" in document.conflict
    with pytest.raises(ValueError, match=r"found no leaf that fits 'PaliGemma/\*'"):
        judge(study, "lora_from_base", untouched=["PaliGemma/*"])


def test_one_candidate_alone_is_not_told_from_its_siblings(study):
    found = judge(study, "lora_from_base", candidates=("pi05_base",))
    assert (found.verdict, found.base) == (UNDETERMINED, None)
    assert "give them, too" in found.sentence and found.leaves.shared
    documented = judge(study, "lora_from_base", FRESH_FROM_BASE, candidates=("pi05_base",))
    assert documented.base == "pi05_base"


def test_weights_that_are_the_base_itself_are_proven_without_a_sibling(study):
    found = judge(study, "pi05_base", candidates=("pi05_base",))
    assert (found.verdict, found.base) == (PROVEN, "pi05_base")
    assert "every leaf of pi05_base is there, unchanged" in found.sentence


def test_one_base_under_two_names_is_said_to_be_the_same_weights(study):
    candidates = [study.candidate("pi05_base"), study.candidate("pi05_base", "mirror"), study.candidate("pi05_libero")]
    found = judge_origin(study.fingerprint("lora_from_base"), candidates, claimed="mirror")
    assert found.verdict is PROVEN and found.of_each["pi05_base"] is PROVEN
    assert "pi05_base (the same weights as mirror)" in found.sentence
    assert any("are the same weights, leaf for leaf" in piece.found for piece in found.evidence)
    attempt = AttemptEvidence("first", "fresh", config=LoaderSetting("/lab/mirror/params"))
    assert judge_origin(study.fingerprint("full_of_everything"), candidates, [attempt]).base == "pi05_base"


# --- documents -------------------------------------------------------------------------------------------------------


def test_a_fresh_attempts_loader_proves_what_bytes_cannot(study):
    found = judge(study, "full_of_everything", FRESH_FROM_BASE)
    assert (found.verdict, found.base, found.deciding) == (PROVEN, "pi05_base", ())
    assert found.of_each["pi05_libero"] is CONTRADICTED and not found.conflict
    assert "training began from pi05_base, as its documents say" in found.sentence


def test_the_name_of_a_configuration_is_no_evidence(study):
    config = loader_setting({"name": "pi05_libero", "weight_loader": {"params_path": BASE.place}, "resume": False})
    attempt = AttemptEvidence("pi05_libero", config=config)
    for run in ("lora_from_base", "full_of_everything"):
        found = judge(study, run, attempt, claimed="pi05_base")
        assert (found.verdict, found.base) == (PROVEN, "pi05_base")
        assert found.of_each["pi05_libero"] is CONTRADICTED
    (piece,) = of_level(found, Level.CONFIG)
    assert "configuration 'pi05_libero' (a name is no evidence)" in piece.found and piece.about == "pi05_base"


def test_no_loader_in_a_fresh_attempt_proves_scratch_unless_bytes_say_otherwise(study):
    attempt = AttemptEvidence("first", "fresh", config=NONE)
    found = judge(study, "scratch", attempt, claimed="pi05_base")
    assert (found.verdict, found.base) == (CONTRADICTED, "scratch")
    denied = judge(study, "lora_from_base", attempt)
    assert (denied.base, denied.of_each["scratch"]) == ("pi05_base", CONTRADICTED)
    assert denied.conflict == "documents name scratch, and what is unchanged is of pi05_base: the bytes count"
    shared = judge(study, "full_from_base", attempt)
    assert shared.verdict is UNDETERMINED and "constants of this kind of model, or no scratch" in shared.conflict


def test_where_bytes_and_configuration_disagree_bytes_win_and_the_conflict_is_said(study):
    attempt = AttemptEvidence("first", "fresh", config=LIBERO)
    found = judge(study, "lora_from_base", attempt)
    assert (found.verdict, found.base, found.of_each["pi05_libero"]) == (PROVEN, "pi05_base", CONTRADICTED)
    assert found.conflict == "documents name pi05_libero, and what is unchanged is of pi05_base: the bytes count"
    claimed = judge(study, "lora_from_base", attempt, claimed="pi05_base")
    (piece,) = of_level(claimed, Level.CONFIG)
    assert (piece.says, piece.about) == (Says.CONTRADICTS, "pi05_base") and "names pi05_libero" in piece.why


def test_a_resumed_attempt_is_not_judged_by_its_loader(study):
    resumed = AttemptEvidence("second", "resume", "first", config=LIBERO)
    for run in ("resumed_from_base", "full_of_everything"):
        found = judge(study, run, FRESH_FROM_BASE, resumed)
        assert (found.verdict, found.base, found.conflict) == (PROVEN, "pi05_base", "")
        (piece,) = [piece for piece in of_level(found, Level.CONFIG) if piece.attempt == "second"]
        assert (piece.says, piece.about) == (Says.NOTHING, None)
        assert "does not call its loader" in piece.why
        (link,) = of_level(found, Level.CHAIN)
        assert link.why == "it inherits where first began"


@pytest.mark.parametrize(
    ("attempts", "gap"),
    [
        (
            [AttemptEvidence("second", "resume", "first", config=LIBERO)],
            "second was resumed from first, of which nothing",
        ),
        ([AttemptEvidence("second", "resume", config=LIBERO)], "from an attempt that is not known"),
        (
            [FRESH_FROM_BASE, AttemptEvidence("third", "resume", "second", config=LIBERO)],
            "third was resumed from second, which is not among the attempts before it",
        ),
        ([AttemptEvidence("only", config=BASE)], "it is not known whether only began afresh"),
    ],
)
def test_a_chain_with_a_missing_link_says_so_and_decides_nothing(study, attempts, gap):
    found = judge(study, "full_of_everything", *attempts)
    assert (found.verdict, found.base) == (UNDETERMINED, None)
    assert gap in found.sentence
    assert judge(study, "lora_from_base", *attempts).base == "pi05_base"  # the bytes do not need it


def test_what_came_before_a_fresh_attempt_does_not_count(study):
    anew = AttemptEvidence("second", "fresh", config=LIBERO)
    assert judge(study, "full_of_everything", FRESH_FROM_BASE, anew).base == "pi05_libero"


def test_log_and_configuration_that_disagree_prove_nothing(study):
    log = LogFacts(restored=("/cache/pi05_libero/params",))
    found = judge(study, "full_of_everything", dataclasses.replace(FRESH_FROM_BASE, log=log))
    assert (found.verdict, found.base) == (UNDETERMINED, None)
    assert found.conflict == "log and configuration disagree: they name pi05_base and pi05_libero"
    unknown = LogFacts(restored=("/cache/ab12/params",))
    found = judge(study, "full_of_everything", dataclasses.replace(FRESH_FROM_BASE, log=unknown))
    assert found.base is None and "that path is of no candidate" in of_level(found, Level.LOG)[0].why


# --- logs that orbax wrote -------------------------------------------------------------------------------------------


def test_orbaxs_own_log_of_a_fresh_attempt_names_its_base(openpi):
    attempt = AttemptEvidence("first", log=parse_log(openpi.logs["full_of_everything"]))
    assert attempt.log.restored == (f"{openpi.paths['pi05_base']}/params",) and attempt.log.first_step == 0
    found = judge(openpi, "full_of_everything", attempt)
    assert (found.verdict, found.base) == (PROVEN, "pi05_base")
    (piece,) = of_level(found, Level.LOG)
    assert "recognised by its path" in piece.why


def test_orbaxs_own_log_of_a_resumed_attempt_leads_to_the_one_before(openpi):
    run = str(openpi.paths["resumed_from_base"].parent)
    first = AttemptEvidence("first", log=parse_log(openpi.logs["started_from_base"]), directory=run)
    second = AttemptEvidence("second", config=LIBERO, log=parse_log(openpi.logs["resumed_from_base"]), directory=run)
    assert second.log.restored == (f"{run}/3",)
    found = judge(openpi, "full_of_everything", first, second)
    assert (found.verdict, found.base) == (PROVEN, "pi05_base")
    assert all(piece.says is Says.NOTHING for piece in found.evidence if piece.attempt == "second")
    elsewhere = dataclasses.replace(first, directory="/runs/pi05_libero/another")
    gap = judge(openpi, "full_of_everything", elsewhere, second)
    assert gap.base is None and f"second restored {run}/3, which is not in /runs/pi05_libero/another" in gap.sentence


def test_a_resume_that_began_afresh_is_judged_as_fresh(openpi):
    """openpi does so silently where the directory is missing, and with a line where it has no step."""
    log = parse_log(openpi.logs["full_of_everything"])
    before = AttemptEvidence("first", "fresh", config=LIBERO)
    silent = AttemptEvidence("second", "resume", "first", config=BASE, log=log)
    found = judge(openpi, "full_of_everything", before, silent)
    assert found.base == "pi05_base"
    assert "although it was started as resume" in of_level(found, Level.CHAIN)[0].found
    line = "Checkpoint directory exists, but does not contain any checkpoints. Aborting resume."
    aborted = AttemptEvidence("second", "resume", "first", config=BASE, log=parse_log(line))
    assert judge(openpi, "full_of_everything", before, aborted).base == "pi05_base"


@pytest.mark.parametrize(
    "line",
    [
        "Restoring checkpoint from /a/b c/pi05_base/params.",
        "04:50:38.076 [I] Restoring checkpoint from /a/b c/pi05_base/params.            (9856:checkpointer.py:368)",
        "I1126 04:50:38.076 140 checkpointer.py:298] Restoring checkpoint from /a/b c/pi05_base/params.\r\n",
        "\x1b[32m04:50\x1b[0m I \x1b[1mRestoring checkpoint from /a/b c/pi05_base/params.\x1b[0m  checkpointer.py:298",
        " 12%|#   | 3/25\rRestoring checkpoint from /a/b c/pi05_base/params.",
        '{"level": "info", "message": "Restoring checkpoint from /a/b c/pi05_base/params."}',
        "[rank0]: INFO:absl:Restoring checkpoint from /a/b c/pi05_base/params.",
    ],
)
def test_a_restore_line_is_found_behind_any_prefix_and_colour(line):
    assert parse_log(f"before\n{line}\nStep 200: loss=0.1").restored == ("/a/b c/pi05_base/params",)


def test_other_lines_are_no_restore_lines():
    text = """Finished restoring checkpoint in 2.35 seconds from /a/params.
    Saving checkpoint at step 3
    Missing metrics for step 3
    WARNING: No weights loaded, training from scratch.
    Step 0: grad_norm=1.0, loss=1.1
    Step 100: grad_norm=1.0, loss=1.0"""
    assert parse_log(text) == LogFacts(scratch=True, first_step=0)


# --- what is compared ------------------------------------------------------------------------------------------------


def weights(seed: int, **leaves: np.ndarray) -> Fingerprint:
    drawn = {"w": np.random.default_rng(seed).normal(size=(8, 8)), **leaves}
    return Fingerprint.of_leaves(leaf_fingerprint(name, value) for name, value in drawn.items())


def test_constant_and_tiny_leaves_never_decide():
    tiny, flat, wide = np.asarray([0.5, 2.0]), np.zeros(64), np.arange(64.0)
    a, b = weights(1, bias=flat, norm=tiny), weights(2, bias=wide, norm=2 * tiny)
    found = judge_origin(weights(3, bias=flat, norm=tiny), [Candidate("a", a), Candidate("b", b)])
    assert found.leaves.discriminating == ("w",) and (found.leaves.constant, found.leaves.small) == (1, 1)
    assert found.verdict is UNDETERMINED


def test_leaves_of_another_shape_are_not_compared():
    a, b = weights(1, x=np.arange(32.0)), weights(2, x=np.arange(48.0))
    found = judge_origin(weights(3, x=np.arange(48.0)), [Candidate("a", a), Candidate("b", b)])
    assert found.base == "b" and found.deciding == ("x",)
    other = Fingerprint.of_leaves([leaf_fingerprint("model.x", np.arange(48.0))])
    found = judge_origin(other, [Candidate("a", a), Candidate("b", b)])
    assert found.verdict is UNDETERMINED and "no leaf has the name and shape" in found.sentence


def test_without_any_candidate_scratch_is_the_one_answer_that_can_be_proven():
    found = judge_origin(weights(1), [], [AttemptEvidence("first", "fresh", config=NONE)], claimed="scratch")
    assert found.sentence == (
        "scratch is PROVEN: training began from scratch, as its documents say; there is no base to compare with"
    )
    assert judge_origin(weights(1), [], [FRESH_FROM_BASE]).verdict is UNDETERMINED


def test_weights_that_no_candidate_explains_are_undetermined():
    a, b = weights(1, x=np.arange(32.0)), weights(2, x=np.arange(1, 33.0))
    found = judge_origin(weights(1, x=np.arange(1, 33.0)), [Candidate("a", a), Candidate("b", b)])
    assert (found.verdict, found.base, found.of_each["scratch"]) == (UNDETERMINED, None, CONTRADICTED)
    assert "weights were merged, or a candidate is missing" in found.sentence


def test_a_verdict_is_plain_values_too():
    found = judge_origin(weights(1), [Candidate("a", weights(1)), Candidate("b", weights(2))], [FRESH_FROM_BASE])
    plain = json.loads(json.dumps(found.as_json()))
    assert (plain["verdict"], plain["base"], plain["deciding"]) == ("PROVEN", "a", ["w"])
    assert {"level", "attempt", "found", "says", "about", "why"} == set(plain["evidence"][0])


@pytest.mark.parametrize(
    ("candidates", "claimed", "said"),
    [
        (["a", "a"], None, r"each of its own name"),
        (["scratch"], None, "and none 'scratch'"),
        (["a"], "b", r"found claim 'b', expected one of \['a', 'scratch'\]"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(candidates, claimed, said):
    with pytest.raises(ValueError, match=said):
        judge_origin(weights(1), [Candidate(name, weights(1)) for name in candidates], claimed=claimed)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (None, None),
        ("none", None),
        ("NoOpWeightLoader()", None),
        ({"_target_": "openpi.training.weight_loaders.NoOpWeightLoader"}, None),
        ("/a/pi05_base/params", "/a/pi05_base/params"),
        ("CheckpointWeightLoader(params_path='gs://x/pi05_base/params')", "gs://x/pi05_base/params"),
        ({"params_path": "gs://x/pi05_base/params"}, "gs://x/pi05_base/params"),
        ({"class": "CheckpointWeightLoader", "path": "/a"}, "/a"),
        ("PaliGemmaWeightLoader()", "PaliGemmaWeightLoader"),
    ],
)
def test_a_loader_is_read_however_it_is_written(value, place):
    assert loader_setting({"name": "x", "weight_loader": value}) == LoaderSetting(place, "x")


def test_a_configuration_that_is_not_resolved_is_no_scratch():
    with pytest.raises(WeightsError, match=r"and no weight_loader, expected the resolved one"):
        loader_setting({"name": "pi05_libero", "batch_size": 32})
    with pytest.raises(WeightsError, match="found weight_loader = 7"):
        loader_setting({"weight_loader": 7})


@pytest.mark.parametrize(
    ("place", "names", "by"),
    [
        ("gs://openpi-assets/checkpoints/pi05_base/params", ("pi05_base",), "path"),
        ("/home/a/.cache/openpi/openpi-assets/checkpoints/pi05_base/params", ("pi05_base",), "folder"),
        ("/runs/pi05_libero/kitchen/29999/params", ("kitchen",), "path"),
        ("/mnt/other/pi05_libero/kitchen/29999/params", ("kitchen",), "folder"),
        ("/runs/pi05_libero/garden/29999/params", (), ""),
        ("/29999/params", (), ""),
        ("/lab/base.safetensors", ("file",), "path"),
        ("", (), ""),
    ],
)
def test_a_path_is_recognised_by_all_of_it_or_by_its_end_and_never_by_a_step_alone(place, names, by):
    nothing = Fingerprint({})
    candidates = [
        Candidate("pi05_base", nothing, ("/lab/a", "gs://openpi-assets/checkpoints/pi05_base")),
        Candidate("kitchen", nothing, ("/runs/pi05_libero/kitchen/29999",)),
        Candidate("file", nothing, ("/lab/base.safetensors",)),
    ]
    found = recognise(place, candidates)
    assert (found.names, found.by) == (names, by)
