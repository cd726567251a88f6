"""The data sets: disjoint, without leaks and duplicates, in the ratio asked for, whatever the order, and used
by the stages after."""

import asyncio
import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner, Result

from assembly_run import config, contents, left_out, run, sandbox_pools, seed, split, write_pools
from display import error_line
from endpoint_server import EndpointServer, says
from safer_steer.bench.suite_copies import bring_in
from safer_steer.bench.suites import read_suite
from safer_steer.cli import app
from safer_steer.config import Role, Source
from safer_steer.data.assembly.near import telling
from safer_steer.data.assembly.splits import sizes
from safer_steer.data.seeds.own_scripts import take_own_scripts
from safer_steer.data.seeds.pools import read_pools
from safer_steer.dialogue import Kind, Seed, Turn, read_dialogues, read_seeds, to_jsonl
from safer_steer.errors import UserError
from safer_steer.export.card import card
from safer_steer.files.manifest import verify
from safer_steer.files.store import write_atomic
from safer_steer.sandbox.world import draw_png, training_devices
from seeds_run import write_pairs

WORDS = ["amber", "basin", "copper", "delta", "ember", "falcon"]
WORDS += ["garnet", "harbor", "indigo", "jasper", "kettle", "lantern"]
LONG = (
    "which of the copper parts beside the lantern would a falcon keeper loosen"
    " before the basin is drained at night"
)


def of(pair: int, kind: Kind, rng: random.Random, **more: Any) -> Seed:
    script = [" ".join(rng.choices(WORDS, k=12)) for _ in range(rng.randint(2, 6))]
    return seed(f"p{pair:03d}", kind, *script, **more)


def pairs(count: int) -> list[Seed]:
    """Every other pair is risky and gives a script of each kind."""
    rng = random.Random(0)
    kinds = [(pair, kind) for pair in range(count) for kind in (Kind if pair % 2 else [Kind.BENIGN])]
    return [of(pair, kind, rng) for pair, kind in kinds]


def reasons(folder: Path, beginning: str = "") -> dict[str, tuple[str, str]]:
    """Why scripts are left out, by id."""
    rows = left_out(folder).items()
    return {id: (row["reason"], row["detail"]) for id, row in rows if row["reason"].startswith(beginning)}


# Draws


@given(
    st.integers(0, 300),
    st.integers(0, 300),
    st.one_of(st.none(), st.integers(1, 400)),
    st.integers(0, 20).map(lambda share: share / 20),
    st.booleans(),
    st.booleans(),
)
def test_sizes_keep_the_ratio_and_take_all_it_allows(
    benign: int, risky: int, total: int | None, share: float, more_benign: bool, more_risky: bool
) -> None:
    safe, other = sizes(benign, risky, total, share, more_benign=more_benign, more_risky=more_risky)
    whole = safe + other
    assert 0 <= safe <= benign and 0 <= other <= risky
    assert total is None or whole <= total
    assert more_benign or safe <= share * whole + 0.5 + 1e-6
    assert more_risky or safe >= share * whole - 0.5 - 1e-6
    too_few_benign = not more_risky and (safe == benign or (whole + 1) * share > benign - 1e-6)
    too_few_risky = other == risky or (not more_benign and (whole + 1) * (1 - share) > risky - 1e-6)
    assert whole == total or too_few_benign or too_few_risky
    if more_benign and more_risky:
        wanted = round((benign + risky if total is None else total) * share)
        assert safe == min(benign, wanted), "as if there were enough risky ones"


def test_rl_has_its_ratio_and_sft_the_rest_of_the_pairs(tmp_path: Path) -> None:
    write_pools(tmp_path, pairs(40))
    assert run(config(20, 0.25, rules=False), tmp_path) == []
    rl, sft = split(tmp_path, "rl"), split(tmp_path, "sft")
    assert [sum(one.kind is Kind.BENIGN for one in rl), len(rl)] == [5, 20]
    taken = {one.meta["pair"] for one in rl}
    assert {one.id for one in sft} == {one.id for one in pairs(40) if one.meta["pair"] not in taken}
    assert {row["reason"] for row in left_out(tmp_path).values()} <= {"pair_in_rl"}
    run(config(20, 0.25, seed=1, rules=False), tmp_path)
    assert {one.id for one in split(tmp_path, "rl")} != {one.id for one in rl}


def test_too_few_scripts_keep_the_ratio_and_are_reported(tmp_path: Path) -> None:
    write_pools(tmp_path, [one for one in pairs(20) if one.kind is Kind.BENIGN or one.meta["pair"] < "p004"])
    (note,) = run(config(12, 0.5, rules=False), tmp_path)
    wanted = "wanted 6 benign and 6 risky; available 20 benign and 4 risky"
    assert note == f"STEER-RL has 8 of 12 scripts: {wanted}"
    balance = json.loads((tmp_path / "splits/balance.json").read_text())
    assert balance["notes"] == [note] and balance["splits"]["rl"]["benign_share"] == 0.5
    assert note in (tmp_path / "splits/balance.md").read_text()


def test_questions_of_fewer_pairs_than_scripts_are_reported_and_counted(tmp_path: Path) -> None:
    """The balance was that of the scripts, which the file does not hold, and nothing was said."""
    kinds = (Kind.BENIGN, Kind.OBFUSCATED)
    write_pools(tmp_path, [seed(f"p{i}", kind, "a b", question="q") for i in range(9) for kind in kinds])
    settings = config(12, 0.5, rules=False)
    settings.rl.single_turn = True
    (note,) = run(settings, tmp_path)
    assert note == "STEER-RL has 8 of 12 questions: one of each pair that gave it scripts"
    balance = json.loads((tmp_path / "splits/balance.json").read_text())["splits"]["rl"]
    assert (balance["scripts"], balance["mean_turns"]) == (len(split(tmp_path, "rl")), 1) == (8, 1)


def test_sft_takes_so_many_in_its_ratio(tmp_path: Path) -> None:
    write_pools(tmp_path, pairs(60))
    assert run(config(10, rules=False, bootstrap={"dialogues": 30}, sft_benign_share=0.2), tmp_path) == []
    sft = split(tmp_path, "sft")
    assert [sum(one.kind is Kind.BENIGN for one in sft), len(sft)] == [6, 30]
    assert "not_drawn" in {row["reason"] for row in left_out(tmp_path).values()}
    (note,) = run(config(10, rules=False, bootstrap={"dialogues": 3000}), tmp_path)
    assert note.startswith("STEER-SFT has ") and note.endswith(" of the 3000 candidates wanted")


def test_nothing_left_for_a_data_set_is_one_line(tmp_path: Path) -> None:
    write_pools(tmp_path, [one for one in pairs(10) if one.kind is Kind.BENIGN])
    with pytest.raises(UserError, match="none of 10 candidates is left for STEER-RL"):
        run(config(4, 0.5, rules=False), tmp_path)
    assert json.loads((tmp_path / "splits/balance.json").read_text())["splits"]["rl"]["scripts"] == 0
    write_pools(tmp_path, [])
    with pytest.raises(UserError, match="no candidates"):
        run(config(4, rules=False), tmp_path)
    (tmp_path / "seeds/benign.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"benign.jsonl:1: id: "):
        run(config(4, rules=False), tmp_path)
    (tmp_path / "seeds/benign.jsonl").unlink()
    with pytest.raises(UserError, match="no such pool"):
        run(config(4, rules=False), tmp_path)


# Laws


@st.composite
def candidates(draw: st.DrawFn) -> list[Seed]:
    """Few pictures, questions and scripts, so that much is met twice."""
    texts = st.lists(st.sampled_from(WORDS[:6]), min_size=1, max_size=6).map(" ".join)
    seeds = []
    for pair in range(draw(st.integers(2, 14))):
        facts = {
            "picture": draw(st.sampled_from([f"picture {n}" for n in range(8)])),
            "use": draw(st.sampled_from(["train", "train", "bench"])),
            "question": draw(st.one_of(st.just("what is this?"), texts)),
        }
        for kind in draw(st.sets(st.sampled_from(list(Kind)), min_size=1)):
            script = draw(st.lists(texts, min_size=2, max_size=3))
            seeds.append(seed(f"p{pair}", kind, *script, source=draw(st.sampled_from(["a", "b/c"])), **facts))
    return seeds


def words(text: str) -> set[str]:
    return set(text.split())


@settings(max_examples=30, deadline=None)
@given(
    candidates(),
    st.integers(1, 10),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.sampled_from([None, 0.5]),
    st.randoms(use_true_random=False),
)
def test_disjoint_without_leaks_and_complete_whatever_the_order(
    tmp_path_factory: pytest.TempPathFactory,
    found: list[Seed],
    total: int,
    share: float,
    sft_share: float | None,
    rng: random.Random,
) -> None:
    wanted = config(total, share, rules=False, sft_benign_share=sft_share)
    results = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("splits")
        rng.shuffle(found)
        write_pools(folder, found)
        with suppress(UserError):  # a data set may be empty
            run(wanted, folder)
        results.append(contents(folder))
    assert results[0] == results[1]

    sft, rl = split(folder, "sft"), split(folder, "rl")
    bench = [one for path in (folder / "splits/bench").glob("*.jsonl") for one in read_seeds(path)]
    ids = [one.id for one in (*sft, *rl, *bench)]
    every = sorted(one.id for one in found)
    assert sorted([*ids, *left_out(folder)]) == every, "every candidate is in one place"
    assert not {one.meta["pair"] for one in sft} & {one.meta["pair"] for one in rl}
    assert abs(sum(one.kind is Kind.BENIGN for one in rl) - share * len(rl)) <= 0.5
    known = [one for one in found if one.meta["use"] == "bench"]
    assert {one.meta["use"] for one in bench} <= {"bench"}
    for one in (*sft, *rl):
        assert one.meta["use"] == "train"
        for other in known:
            assert one.meta["picture"] != other.meta["picture"]
            question, asked = one.meta["question"], other.meta["question"]
            assert not telling(question) or words(question) != words(asked)
            assert not telling(" ".join(one.script)) or one.script != other.script
    for members in (sft, rl, bench):
        distinct = {(one.meta["picture"], tuple(one.script)) for one in members}
        assert len(distinct) == len(members), "no duplicates"


# Leaks and duplicates


def test_what_leaks_and_what_does_not(tmp_path: Path) -> None:
    question = "How would the falcon keeper open that copper lantern over there?"
    script = [LONG, " ".join(reversed(LONG.split()))]
    nearly = [LONG.replace("night", "dawn"), script[1]]
    brief = ["what is this?", "and what is that?"]
    rng = random.Random(1)
    rows = [
        seed("held", Kind.OBFUSCATED, *script, question=question, picture="shown", use="bench"),
        seed("brief", Kind.OBFUSCATED, *brief, question="What is this?", use="bench"),
        of(1, Kind.BENIGN, rng, picture="shown"),
        of(2, Kind.BENIGN, rng, question="how could a falcon keeper open the copper lantern?"),
        seed("p003", Kind.BENIGN, *nearly, question="Where was it made?"),
        seed("p004", Kind.BENIGN, *brief, question="What is this?"),
        of(5, Kind.BENIGN, rng, question="How would the falcon keeper repaint that iron gate?"),
        of(6, Kind.OBFUSCATED, rng),
    ]
    write_pools(tmp_path, rows)
    assert not run(config(2, rules=False), tmp_path)
    held = "held-obfuscated"
    assert reasons(tmp_path, "leak") == {
        "p001-benign": ("leak_picture", held),
        "p002-benign": ("leak_question", held),
        "p003-benign": ("leak_script", held),
    }
    stay = {one.id for name in ("sft", "rl") for one in split(tmp_path, name)}
    assert stay == {"p004-benign", "p005-benign", "p006-obfuscated"}


def test_suites_that_are_files_count_as_bench(tmp_path: Path) -> None:
    device = training_devices()[0]
    for name, number in (("seen", 0), ("other", 1)):
        write_atomic(tmp_path / f"run/images/{name}.png", draw_png(device, True, number))
    write_atomic(tmp_path / "suites/copy.png", (tmp_path / "run/images/seen.png").read_bytes())
    asked = "Which copper lever opens that amber basin?"
    rows = [
        seed("x", Kind.RED_TEAM, "hello there", "and now?", images=["copy.png"]),
        seed("y", Kind.RED_TEAM, asked),
        seed("z", Kind.RED_TEAM, *LONG.split()[:2], question="Who keeps the falcon inside a garnet harbor?"),
        seed("imported", Kind.RED_TEAM, "hello there", "Which indigo lantern burns beside a jasper kettle?"),
    ]
    write_atomic(tmp_path / "suites/mine.jsonl", to_jsonl(rows))
    rng = random.Random(0)
    names = {0: "seen", 1: "other"}
    shown = [of(n, Kind.BENIGN, rng, images=[f"images/{name}.png"]) for n, name in names.items()]
    for one in shown:
        del one.meta["picture"]  # as seeds of an older run: the file is looked at
    mine = [
        *shown,
        of(2, Kind.BENIGN, rng, question=asked),
        of(3, Kind.BENIGN, rng, question=rows[2].meta["question"]),
        of(4, Kind.OBFUSCATED, rng),
        of(5, Kind.BENIGN, rng, question=rows[3].turns[1].user),
        seed("p006", Kind.BENIGN, "what is it?", asked),  # a script of one's own
    ]
    write_pools(tmp_path / "run", mine)
    run(config(1, 0, rules=False), tmp_path / "run", suites=[tmp_path / "suites/mine.jsonl"])
    assert reasons(tmp_path / "run") == {
        "p000-benign": ("leak_picture", "mine.jsonl x-red_team"),
        "p002-benign": ("leak_question", "mine.jsonl y-red_team"),
        "p003-benign": ("leak_question", "mine.jsonl z-red_team"),
        "p005-benign": ("leak_question", "mine.jsonl imported-red_team"),
        "p006-benign": ("leak_question", "mine.jsonl y-red_team"),
    }


def test_a_script_of_one_s_own_leaks_by_any_of_its_pictures_also_if_the_run_scaled_it(tmp_path: Path) -> None:
    for number, name in enumerate(("large", "late", "other")):
        side = 200 if name == "large" else 50
        Image.new("RGB", (side, side), (80 * number, 90, 90)).save(tmp_path / f"{name}.png")
    turns = [Turn(user=LONG), Turn(user="and this?")]
    late = [turns[0], Turn(user="and this?", images=["late.png"])]
    rng = random.Random(3)
    mine = [
        of(0, Kind.BENIGN, rng, images=["large.png"], meta={}),
        of(1, Kind.BENIGN, rng, images=["other.png"], turns=[Turn(user="x"), late[1]], meta={}),
        of(2, Kind.BENIGN, rng, images=["other.png"], meta={}),
        of(3, Kind.OBFUSCATED, rng, images=["other.png"], meta={}),
    ]
    write_atomic(tmp_path / "own.jsonl", to_jsonl(mine))
    held = [
        Seed(id="l", kind=Kind.RED_TEAM, images=["large.png"], turns=turns),
        Seed(id="t", kind=Kind.RED_TEAM, turns=late),
    ]
    write_atomic(tmp_path / "mine.jsonl", to_jsonl(held))
    settings = config(1, 0, rules=False)
    settings.seeds.scripts, settings.student.max_pixels = str(tmp_path / "own.jsonl"), 100 * 100
    take_own_scripts(settings, tmp_path / "run")
    run(settings, tmp_path / "run", suites=[tmp_path / "mine.jsonl"])
    assert reasons(tmp_path / "run") == {
        "p000-benign": ("leak_picture", "mine.jsonl l"),
        "p001-benign": ("leak_picture", "mine.jsonl t"),
    }


def test_a_suite_of_another_run_knows_the_originals_of_its_perturbed_pictures(tmp_path: Path) -> None:
    device = training_devices()[0]
    write_atomic(tmp_path / "suites/images/x-perturbed.png", draw_png(device, True, 1))
    shown = {"images": ["images/x-perturbed.png"], "picture": "the original"}
    row = seed("x", Kind.RED_TEAM, "hello there", "and now?", **shown)
    write_atomic(tmp_path / "suites/mine.jsonl", to_jsonl([row]))
    rng = random.Random(0)
    leak = of(0, Kind.BENIGN, rng, picture="the original")
    write_pools(tmp_path / "run", [leak, of(1, Kind.BENIGN, rng), of(2, Kind.OBFUSCATED, rng)])
    run(config(1, 0, rules=False), tmp_path / "run", suites=[tmp_path / "suites/mine.jsonl"])
    assert reasons(tmp_path / "run") == {leak.id: ("leak_picture", "mine.jsonl x-red_team")}


def test_no_script_for_a_bench_that_was_asked_for_ends_here_and_not_after_the_training(
    tmp_path: Path,
) -> None:
    write_pools(tmp_path, pairs(20))
    wanted = config(4, rules=False)
    wanted.seeds.sources.append(Source(name="held", path="held.jsonl", use="bench"))
    with pytest.raises(UserError, match="none of 0 candidates is left for STEER-Bench"):
        run(wanted, tmp_path)
    moss = of(90, Kind.BENIGN, random.Random(5), use="bench", source="moss")
    moss.meta["category"] = "²"  # a digit that is no number
    write_pools(tmp_path, [*pairs(20), moss])
    assert run(wanted, tmp_path) == [], "without risky pairs it does not lack attacks"


def test_nearly_the_same_script_counts_once_on_a_picture(tmp_path: Path) -> None:
    one, other = LONG, LONG.replace("night", "dawn")
    rng = random.Random(2)
    rows = [
        seed("a", Kind.OBFUSCATED, one, picture="same"),
        seed("b", Kind.OBFUSCATED, other, picture="same"),
        seed("c", Kind.OBFUSCATED, one, picture="another"),
        of(1, Kind.OBFUSCATED, rng, picture="same"),
    ]
    write_pools(tmp_path, rows)
    run(config(2, 0, rules=False), tmp_path)
    ((id, (_, first)),) = reasons(tmp_path, "near_duplicate").items()
    assert {id, first} == {"a-obfuscated", "b-obfuscated"}


# In a run


def safer_steer(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> Result:
    result = safer_steer(*arguments)
    assert result.exit_code == 0, result.output
    return result


def complaint(*arguments: object) -> str:
    result = safer_steer(*arguments)
    assert result.exit_code == 2, result.output
    return error_line(result.stderr)


def config_file(folder: Path, **changes: Any) -> Path:
    held = write_pairs(folder / "held", *({"source": "Held/out"} for _ in range(8)))
    sources = [{"limit": 40}, {"name": "held", "path": str(held), "use": "bench"}]
    keys: dict[str, Any] = {
        "student": {"max_turn_tokens": 40, "max_length": 512, "dtype": "float32", "device": "cpu"},
        "seeds": {"sources": sources, "min_turns": 2, "max_turns": 4, "perturb_share": 0.3},
        "assembly": {},
        "rl": {"seeds": 12, "benign_share": 0.5, "prompts_per_step": 4},
        "bench": {"suites": ["sandbox", "steer"]},
    }
    kept = {key: value for key, value in (keys | changes).items() if value is not None}
    (folder / "config.yaml").write_text(yaml.safe_dump(kept))
    return folder / "config.yaml"


def test_the_stages_on_the_sandbox(tmp_path: Path) -> None:
    file, out = config_file(tmp_path), tmp_path / "run"
    assert "no run in it" in complaint("assemble", file, "--out", out)
    done("seeds", file, "--out", out)
    assert "needs `assemble`" in complaint("bootstrap", file, "--out", out)
    said = done("assemble", file, "--out", out)
    assert "assemble: done in" in said.stderr
    done("bootstrap", file, "--out", out)

    sft, rl = split(out, "sft"), split(out, "rl")
    assert len(rl) == 12
    played = [one for name in ("kept", "rejected") for one in read_dialogues(out / f"bootstrap/{name}.jsonl")]
    assert {one.id for one in played} == {one.id for one in sft}
    assert all((out / image).is_file() for one in (*sft, *rl) for image in one.images)

    files = sorted((out / "splits/bench").glob("*.jsonl"))
    assert [path.name for path in files] == ["Held_out.jsonl", "Held_out_safe.jsonl"]
    attacks, twins = map(read_suite, files)
    assert twins.safe_twins and not attacks.safe_twins and attacks.protocol == "multi_turn"
    brought = bring_in(["steer", "sandbox"], out, 5, 10**6)
    assert {"Held_out", "Held_out_safe", "probing", "safe_twins"} <= {suite.name for suite in brought}
    for suite in brought:
        assert all((suite.folder / image).is_file() for one in suite.seeds for image in one.images)

    all_scripts = read_pools(out, list(Kind))
    balance = json.loads((out / "splits/balance.json").read_text())
    assert sum(one["scripts"] for one in balance["splits"].values()) + len(left_out(out)) == len(all_scripts)
    for part in balance["splits"].values():
        assert {sum(counts.values()) for counts in part["by"].values()} == {part["scripts"]}
    assert balance["rules"]["rule_2"] < balance["rules"]["rule_1"] == balance["rules"]["candidates"]
    assert balance["bench"] == "not filtered by success"
    assert verify(out) == []
    done("report", out)
    assert "Scripts by data set" in (out / "report.html").read_text()
    assert "assemble: done already" in done("assemble", file, "--out", out).stderr
    done("seeds", file, "--out", out, "--fresh")
    assert not (out / "splits").exists()


def test_mistakes_of_a_config_are_one_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    held = [{"limit": 4}, {"name": "held", "path": str(tmp_path / "held/pairs.jsonl"), "use": "bench"}]
    risky_only, bench_only = {"sources": held, "kinds": ["red_team"]}, {"sources": held[1:]}
    half = {"seeds": risky_only, "rl": {"seeds": 2, "benign_share": 0}, "assembly": {"sft_benign_share": 0.5}}
    for changes, message in (
        ({"seeds": None}, "bench.suites: `steer`"),
        ({"bench": {"suites": ["nowhere.jsonl"]}}, "no such file"),
        (half, "assembly.sft_benign_share: a share of 0.5 needs"),
        (
            {"seeds": risky_only},
            "rl.benign_share: a share of 0.5 needs benign scripts, but seeds.kinds is red_team",
        ),
        ({"seeds": bench_only}, "there is nothing to train on"),
    ):
        assert message in complaint("run", config_file(tmp_path, **changes), "--out", out)
    assert not list(out.glob("splits*")) and not (out / "seeds").exists()


@pytest.mark.parametrize(("role", "use"), [("evaluator", "train"), ("tutor", "train"), ("judge", "bench")])
async def test_who_stays_with_the_sandbox_and_cannot_judge_foreign_pictures_is_told_before_the_first_stage(
    tmp_path: Path, role: str, use: str
) -> None:
    roles = ("generator", "target", "attack_judge", "red", "blue", "evaluator", "tutor")
    file = config_file(tmp_path)
    keys = yaml.safe_load(file.read_text())
    Image.new("RGB", (40, 40)).save(tmp_path / "held/0.png")
    if use == "train":
        keys["seeds"]["sources"] = [{"name": "mine", "path": str(tmp_path / "held/pairs.jsonl")}]
        keys["bench"] = {"suites": ["sandbox"]}
    async with EndpointServer(always=says("{}")) as server:
        endpoint = {"model": "m", "base_url": server.url}
        keys["roles"] = {name: endpoint for name in roles if name != role}
        file.write_text(yaml.safe_dump(keys))
        said = await asyncio.to_thread(complaint, "run", file, "--out", tmp_path / "run")
    assert f"roles.{role}: the sandbox's agent knows only the sandbox's pictures" in said
    assert server.calls == 0 and not (tmp_path / "run").exists()


def test_the_runs_suites_have_names_of_their_own(tmp_path: Path) -> None:
    rng, rows = random.Random(0), []
    for number, source in enumerate(["average", "../up", "probing", "a", "a_safe", "ü", "x" * 300]):
        rows += [of(number, kind, rng, use="bench", source=source) for kind in (Kind.BENIGN, Kind.RED_TEAM)]
    write_pools(tmp_path, rows)
    run(config(1, rules=False), tmp_path, taken={"probing"})
    files = list((tmp_path / "splits/bench").glob("*.jsonl"))
    names = {"_up", "_up_safe", "_", "__safe", "a", "a_safe", "a_safe_", "a_safe_safe"}
    names |= {"average_", "average_safe", "probing_", "probing_safe"}
    long = {path.stem for path in files if path.stem.startswith("x" * 60)}
    assert {path.stem for path in files} - long == names
    assert len(long) == 2 and all(len(name) < 80 for name in long)
    assert all(read_suite(path).seeds for path in files)


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ({}, "not filtered by success"),
        ({"filter_bench": True, "success_at": 5}, "filtered by success against org/other at success_at 5"),
    ],
)
def test_the_cards_of_the_suites_say_how_they_were_selected(
    tmp_path: Path, seeds: dict[str, Any], said: str
) -> None:
    held = of(90, Kind.RED_TEAM, random.Random(5), use="bench", source="held")
    write_pools(tmp_path, [*pairs(20), held])
    settings = config(4, rules=False)
    source = Source(name="held", path="held.jsonl", use="bench")
    settings.seeds = settings.seeds.model_copy(update={"sources": [source], **seeds})
    settings.roles["target"] = Role(model="org/other", base_url="http://127.0.0.1:9/v1")
    run(settings, tmp_path)
    for text in ((tmp_path / "splits/balance.md").read_text(), card("steer", settings, [], {"assemble": {}})):
        assert f"Red-team scripts of the suites of STEER-Bench: {said}." in text


def test_at_most_so_many_dialogues_a_suite(tmp_path: Path) -> None:
    rows = sandbox_pools(tmp_path, 12)
    for one in rows:
        one.meta["use"] = "bench"
    write_pools(tmp_path, rows)
    run(config(1, bench_dialogues=2), tmp_path)
    files = (tmp_path / "splits/bench").glob("*.jsonl")
    assert [len(read_suite(path).seeds) for path in files] == [2, 2]
    assert {reason for reason, _ in reasons(tmp_path).values()} == {"not_drawn", "rule_2"}
