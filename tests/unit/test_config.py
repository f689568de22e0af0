"""Settings: defaults, overrides, and errors that name key, problem and remedy, all at once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import yaml

from smartedge.config import Config, load_config, load_run_config, parse_overrides
from smartedge.config.reading import config_of_edge
from smartedge.errors import ConfigError, RunError
from smartedge.images.size import ImageSize
from smartedge.models.blueprint import Blueprint


def test_defaults_are_complete():
    config = load_config({})
    assert config.method == "hierarchical"
    assert config.codec_name == "uint8"
    assert config.front_epochs == config.epochs


def test_yaml_round_trip():
    config = load_config({"model": {"bottleneck": "8x4x4"}, "data": {"desired": ["a", "b"], "sensitive": "Male"}})
    assert config.model.bottleneck == (8, 4, 4)
    assert config.data.sensitive == ("Male",)
    assert load_config(yaml.safe_load(config.to_yaml())) == config


def test_overrides_win_and_are_read_as_yaml(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train: {lr: 0.5, batch_size: 32}\n")
    config = load_config(
        file, ["train.lr=1e-2", "data.desired=[a, b]", "data.limit.train=100", "model.bottleneck=8x4x4"]
    )
    assert (config.train.lr, config.train.batch_size) == (0.01, 32)
    assert config.data.desired == ("a", "b")
    assert config.data.limit == {"train": 100}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"methd": "edge"}, ["methd", "unknown key", "method"]),
        ({"train": {"learning_rate": 1}}, ["train.learning_rate: unknown key; did you mean 'train.lr'?"]),
        ({"batchsize": 1}, ["batchsize: unknown key; did you mean 'train.batch_size'?"]),
        ({"Front-Epochs": 1}, ["Front-Epochs: unknown key; did you mean 'train.front_epochs'?"]),
        ({"model": {"bottleneck": 8}}, ["got 8; write a shape, such as 8x4x4"]),
        ({"data": {"limit": {"train:256": None}}}, ["data.limit.train: write a space after the colon: {train: 256}"]),
        ({"codec": {"name": "unit8"}}, ["codec.name: there is no codec 'unit8'; did you mean 'uint8'?"]),
        ({"lr": 3}, ["lr", "train.lr"]),
        ({"adversary": {"lambda": 3}}, ["adversary.lambda: unknown key; did you mean 'adversary.weight'?"]),
        ({"fleet": {"expect": "door"}}, ["fleet.expect: must be a whole number, or must be a list, got 'door'"]),
        ({"fleet": {"cuts": "layer1"}}, ["fleet.cuts: must be a list, got 'layer1'; write [layer1]"]),
        ({"fleet": {"deadline": "2h"}}, ["got '2h'; write the number alone, without a unit: hours after the cloud's"]),
        ({"spool": {"max_bytes": "1GB"}}, ["got '1GB'; write the number alone, without a unit: bytes that it may"]),
        ({"model": {"exit": {"widht": 3}}}, ["model.exit.widht", "model.exit.width"]),
        ({"method": "cloud"}, ["method: 'cloud' names a side; the method is now called 'upload'"]),
        ({"method": "edge"}, ["method: 'edge' names a side; the method is now called 'local'"]),
        ({"method": "uplod"}, ["method", "did you mean 'upload'"]),
        ({"epochs": "many"}, ["epochs", "must be a whole number", "'many'"]),
        ({"epochs": 0}, ["epochs", "greater than 0"]),
        ({"epochs": 10**12}, ["epochs", "less than or equal to 100000"]),
        ({"train": {"front_epochs": 10**400}}, ["train.front_epochs", "less than or equal to 100000"]),
        ({"train": {"distill": {"epochs": 10**12}}}, ["train.distill.epochs", "less than or equal to 100000"]),
        ({"method": "upload", "codec": {"name": "uint8"}}, ["codec.name", "'image' or 'jpeg'"]),
        ({"codec": {"name": "jpeg"}}, ["codec.name", "use 'uint8'"]),
        ({"codec": {"name": "code"}}, ["codec.name: 'code' encodes codewords", "set model.codebook"]),
        ({"codec": {"name": "UINT8"}}, ["there is no codec 'UINT8'; did you mean 'uint8'?"]),
        ({"codec": {"name": "learned"}}, ["codec.bytes: codec 'learned' needs a target"]),
        ({"codec": {"name": "uint8", "bytes": 90}}, ["codec.bytes: only for codec.name 'learned', not 'uint8'"]),
        ({"codec": {"bytes": 90}}, ["codec.bytes: only for codec.name 'learned'"]),
        ({"codec": {"name": "learned", "bytes": 15}}, ["codec.bytes", "greater than or equal to 16"]),
        ({"codec": {"name": "learned-90", "bytes": 91}}, ["codec.bytes: only for codec.name 'learned'"]),
        ({"codec": {"name": "learned-90-previous"}}, ["codec.reference: schedule 'joint' sends", "'freeze-and-log'"]),
        ({"codec": {"reference": "previous"}, "schedule": "two-stage"}, ["codec.reference: schedule 'two-stage'"]),
        ({"codec": {"name": "float16", "reference": "previous"}}, ["codec.reference: only for codec.name uint8"]),
        ({"codec": {"reference": "previous"}, "method": "upload"}, ["codec.reference: only for codec.name uint8"]),
        ({"codec": {"name": "learned-90"}, "method": "split"}, ["codec.name: 'learned' needs a front", "'split'"]),
        ({"codec": {"name": "learned-90"}, "method": "upload"}, ["codec.name", "'image' or 'jpeg'"]),
        ({"codec": {"name": "learned-90"}, "model": {"codebook": 4}}, ["codec.name: 'learned' rounds numbers"]),
        ({"method": "split", "schedule": "freeze-and-log"}, ["schedule", "use 'joint'"]),
        (
            {"schedule": "freeze-and-log", "fleet": {"expect": 3, "max_influence": 0.5}},
            ["fleet.max_influence: does nothing", "cloud/fleet.json"],
        ),
        ({"train": {"front_epochs": 3}}, ["train.front_epochs", "remove it"]),
        ({"data": {"desired": "a", "sensitive": ["a"]}}, ["data.sensitive", "cannot be desired and sensitive"]),
        ({"link": {"tls_cert": "x.pem"}}, ["link.tls_cert", "both or neither"]),
        ({"method": "split", "cloud": {"shards": 2}}, ["cloud.shards", "'split' answers"]),
        ({"method": "split", "cloud": {"workers": 0}}, ["cloud.workers", "leave both at 1"]),
        ({"cloud": {"workers": 3, "shards": 4}}, ["cloud.shards", "a multiple of 3"]),
        ({"cloud": {"workers": 2}}, ["cloud.shards", "a multiple of 2"]),
        ({"train": {"batch_size": 7}, "cloud": {"shards": 4}}, ["cloud.shards", "7 images", "at most 3"]),
        ({"model": {"cut": 1.1}}, ["model.cut: 1.1 is a number in YAML", "in quotes"]),
        ({"model": {"weights": "my.onnx"}}, ["model.weights: 'my.onnx' is neither 'none' nor 'timm'", ".safetensors"]),
        ({"train": {"freeze": "front"}, "method": "local"}, ["train.freeze", "does not divide"]),
        ({"train": {"freeze": "front"}, "method": "split"}, ["train.freeze", "nothing to train"]),
        (
            {"train": {"freeze": "front"}, "adversary": {"exits": "mlp"}, "data": {"sensitive": "a"}},
            ["cannot learn to"],
        ),
        ({"model": {"adapter": 4}}, ["model.adapter", "train.freeze, for example 'front'"]),
        ({"train": {"lr_pretrained": 1e-4}}, ["train.lr_pretrained", "no pretrained weights"]),
    ],
)
def test_what_is_wrong_is_named_with_a_remedy(raw, words):
    with pytest.raises(ConfigError) as caught:
        load_config(raw)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data:\n\tpath: drawn\n", "is not YAML: line 2, column 1: a tab; indent with spaces"),
        ("epochs: 1\nepochs: 2\n", "line 2, column 1: the key 'epochs' occurs twice"),
        ("data: {path: drawn\n", "while parsing a flow mapping: expected ',' or '}'"),
        ("data: !!python/name:os.system\n", "line 1, column 7: a tag (!...), which settings do not have"),
        ('data: {path: "\x1b"}', "special characters are not allowed"),
        ("epochs: on", "epochs: true is not a number; YAML takes on, off, yes and no for true and false"),
        ("epochs: 1:30", "epochs: must be a whole number, got '1:30'"),
        ("data: {limit: {train: yes}}", "data.limit: true is not a number"),
        ("data: {desired: yes}", "data.desired: must be a text, got True; in quotes it is a text"),
        ("data: {desired: [a, 3]}", "data.desired.1: must be a text, got 3"),
        ("data: {desired: 2026-01-31, sensitive: 1.5}", "data.sensitive: must be a list, got 1.5"),
        ("train: {lr: .inf}", "train.lr: inf is not a finite number"),
        ("model: {args: {rate: .nan}}", "model.args: nan is not a finite number"),
        ("train: {channels_last: maybe}", "train.channels_last: must be true or false, or must be 'auto', got 'maybe'"),
        ('data: {path: "a\\0b"}', "data.path: a text with a null character"),
        ("data: 3", "data: must be a mapping of keys to values, got 3; write one of its keys, such as data.path"),
        ("model: resnet50", "got 'resnet50'; write one of its keys, such as model.name"),
        ("data: {limit: 100}", "data.limit: must be a mapping of keys to values, got 100; write {train: 100}"),
    ],
)
def test_a_mistake_in_yaml_is_told_in_the_words_of_users(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert says in str(caught.value) and str(caught.value).startswith(f"{file}:")
    assert len(str(caught.value).splitlines()) <= 2, "one line for one mistake"


def test_yaml_is_read_as_people_mean_it(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "seed: 010\ndata:\ntrain: {lr: 1e-3, channels_last: off}\nmodel: {cut: 010, exit: , args: {a: yes}}\n"
    )
    config = load_config(file)
    assert (config.seed, config.train.lr, config.train.channels_last) == (10, 0.001, False)
    assert (config.model.cut, config.model.args, config.data) == ("010", {"a": True}, load_config({}).data)


def test_a_settings_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes("data: {path: Ü}".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"run.yaml: is not a text file in UTF-8; save it as UTF-8"):
        load_config(file)
    with pytest.raises(ConfigError, match=r"is a folder; 'smartedge init run.yaml --data \S+' writes settings for"):
        load_config(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match=r"is a folder; the settings of this run are \S+config.yaml"):
        load_config(tmp_path)


def test_a_rectangle_is_kept_as_it_was_written_and_a_square_as_a_number() -> None:
    config = load_config({"data": {"image_size": "24x40"}})
    assert config.data.image_size.shape == (3, 24, 40)
    assert config.agreement()["data"]["image_size"] == "24x40"
    assert load_config(yaml.safe_load(config.to_yaml())) == config
    assert (
        load_config({"data": {"image_size": "40x40"}}).identity()
        == load_config({"data": {"image_size": 40}}).identity()
    )
    for data, words in (
        ({"image_size": "4x64"}, r"data.image_size: .*4x64 pixels: height and width must be 8 to 4096"),
        ({"image_size": "64x64x17"}, r"data.image_size: .*1 to 16 channels"),
        ({"mean": [123.7, 116.3, 103.5]}, r"data.mean.*less than or equal to 1"),
        ({"mean": [float("nan")] * 3}, r"data.mean: nan is not a finite number"),
        ({"std": [58.4, 57.1, 57.4]}, r"data.std.*less than or equal to 1"),
        ({"std": [float("inf")] * 3}, r"data.std: inf is not a finite number"),
        ({"std": [1e-300] * 3}, r"data.std.*greater than or equal to 0.001"),
        ({"image_size": "64x64x5", "mean": [0.1, 0.2, 0.3]}, r"data.mean: 3 numbers for images of 5 channels"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_config({"data": data})
    with pytest.raises(ConfigError, match=r"codec.name: 'jpeg' encodes pictures of three channels.*use 'image'"):
        load_config({"method": "upload", "data": {"image_size": "64x64x5"}, "codec": {"name": "jpeg"}})


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ({"name": "timm/tf_efficientnet_lite0", "weights": "my.pth"}, 224),
        ({"name": "resnet10t.c3_in1k"}, 176),
        ({"name": "resnet10t.c3_in1k", "weights": "none"}, 64),
        ({"name": "my.code:network", "weights": "my.pth"}, 64),
        ({"name": "resnet18"}, 64),
    ],
)
def test_a_pretrained_network_gets_images_of_its_own_size_where_none_is_given(model, size, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.pth").touch()
    config = load_config({"model": model})
    assert config.data.image_size.plain == size
    assert load_config(Config.model_validate({"model": model})).data.image_size.plain == size
    assert load_config(yaml.safe_load(config.to_yaml())) == config
    assert load_config({"model": model, "data": {"image_size": 48}}).data.image_size.plain == 48


@pytest.mark.parametrize(
    ("written", "meant"), [("none", ()), ("front", ("front",)), (["conv1", "bn1"], ("conv1", "bn1"))]
)
def test_what_is_frozen_is_one_word_or_a_list(written, meant):
    assert load_config({"train": {"freeze": written}}).train.freeze == meant


def test_a_cut_may_be_a_whole_number():
    assert load_config({"model": {"cut": 0}}).model.cut == "0"


def test_every_problem_is_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        load_config({"methd": 1, "epochs": "x", "model": {"nam": "y"}})
    assert all(key in str(caught.value) for key in ("methd", "epochs", "model.nam"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "not YAML"),
        ("- 1", "mapping.*but is a list"),
        ("hello", "such as 'epochs: 2', but is text$"),
        ("seed: 1\nseed: 2", "twice"),
    ],
)
def test_a_file_that_is_no_mapping(tmp_path, text, problem):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        load_config(file)


def test_a_missing_file_says_how_to_write_one(tmp_path):
    with pytest.raises(ConfigError, match="smartedge init"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("assignment", ["lr", "=3"])
def test_an_override_without_key_or_value(assignment):
    with pytest.raises(ConfigError, match="key=value"):
        parse_overrides([assignment])


def test_a_key_cannot_be_a_value_and_a_section():
    with pytest.raises(ConfigError, match="'train' was given a value before"):
        parse_overrides(["train=3", "train.lr=1"])


def test_sides_agree_whatever_is_hidden_and_wherever_data_lie():
    one = load_config({"data": {"path": "here", "sensitive": "Male"}, "run_dir": "a", "hardware": {"threads": 1}})
    other = load_config({"data": {"path": "there"}, "run_dir": "b"})
    assert one.agreement() == other.agreement()
    assert "Male" not in str(one.agreement())
    assert one.agreement() != load_config({"seed": 1}).agreement()


def leaves(settings, before=""):
    """The keys of nested settings, such as ``train.lr``."""
    if not isinstance(settings, dict) or not settings:
        return {before.rstrip(".")}
    return {key for name, value in settings.items() for key in leaves(value, f"{before}{name}.")}


def test_which_settings_make_another_run_and_on_which_both_sides_agree():
    config = load_config({"data": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    whole, files = leaves(config.model_dump(mode="json")), {"model.front", "model.start", "model.weights"}
    places = {key for key in whole if key.split(".")[0] in ("run_dir", "hardware", "link", "spool", "store")}
    waiting = {f"fleet.{key}" for key in ("expect", "deadline", "patience", "farewell")} | {"cloud.workers"}
    cache = {"data.cache_dir", "data.cache_bytes"}
    codec = {"codec.bytes", "codec.reference"}  # in its name
    assert whole - leaves(config.identity()) == {*files, *places, *waiting, *cache, *codec}
    agreed = {key for key in whole - files if key.split(".")[0] in ("model", "train", "dp")}
    agreed |= {"method", "schedule", "epochs", "seed", "codec.name"}
    agreed |= {f"data.{key}" for key in ("desired", "image_size", "fit", "augment", "mean", "std")}
    assert leaves(config.agreement()) == agreed
    own = {"cloud.shards", *(f"fleet.{key}" for key in ("mix", "max_influence", "cuts", "logit_adjustment"))}
    assert leaves(config.cloud_identity()) == agreed | own


def test_a_process_takes_half_the_cores_where_nothing_is_said(monkeypatch):
    for cores, threads in ((8, 4), (1, 1), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert load_config({}).threads == threads
    assert load_config({"hardware": {"threads": 3}}).threads == 3


def test_the_keys_that_configs_rely_on():
    fields = Config.model_fields
    assert {"method", "schedule", "epochs", "seed", "run_dir", "data", "model", "codec"} <= set(fields)
    dumped = load_config({}).model_dump()
    assert {"path", "desired", "sensitive", "image_size"} <= set(dumped["data"])
    assert {"name", "cut", "bottleneck"} <= set(dumped["model"])
    assert "name" in dumped["codec"]


HIDDEN = {"data": {"sensitive": "masculine"}, "adversary": {"exits": "mlp"}}
SEVEN = {"desired": ["a", "b", "c", "d", "e", "f", "g"]}
NOISE = {"model": {"bottleneck": "4x1x1"}, "dp": {"mechanism": "gaussian", "epsilon": 4}}


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"adversary": {"exits": ["mlp"]}}, "data.sensitive"),
        ({"adversary": {"dependence": 1.0}}, "data.sensitive"),
        ({**NOISE, "adversary": {"mixture": 1.0}}, "data.sensitive"),
        ({"data": {"sensitive": "masculine"}, "adversary": {"mixture": 1.0}}, "adversary.mixture"),
        ({**NOISE, "data": {**SEVEN, "sensitive": "masculine"}, "adversary": {"mixture": 1.0}}, "adversary.mixture"),
        ({**HIDDEN, "method": "split"}, "adversary"),
        ({"method": "local", "train": {"distill": {"epochs": 1}}}, "train.distill"),
        ({**NOISE, "method": "split"}, "dp"),
        ({"method": "upload", "dp": {"label_epsilon": 1}}, "dp"),
        ({"model": {"bottleneck": "4x1x1", "codebook": 4}}, "model.bottleneck, model.codebook"),
        ({"dp": {"epsilon": 1}}, "dp.mechanism"),
        ({"dp": {"sigma": 1}}, "dp.mechanism"),
        ({"model": {"codebook": 4}, "dp": {"mechanism": "subset-selection", "epsilon": 1, "sigma": 1}}, "dp.epsilon"),
        ({**NOISE, "dp": {"mechanism": "gaussian"}}, "dp.epsilon, dp.sigma"),
        ({**NOISE, "dp": {"mechanism": "gaussian", "epsilon": 1, "sigma": 1}}, "dp.epsilon, dp.sigma"),
        ({"model": {"codebook": 4}, "dp": {"mechanism": "subset-selection"}}, "dp.epsilon"),
        ({"dp": {"mechanism": "randomised-response", "epsilon": 1}}, "model.codebook"),
        ({"model": {"codebook": 4}, "dp": {"mechanism": "laplace", "epsilon": 1}}, "dp.mechanism"),
        ({"dp": {"mechanism": "gaussian", "epsilon": 1}}, "dp.clip"),
        ({**NOISE, "dp": {**NOISE["dp"], "granularity": "element"}}, "dp.granularity"),
        ({"method": "upload", "schedule": "two-stage"}, "schedule"),
        ({"train": {"front_epochs": 2}}, "train.front_epochs"),
        ({"method": "upload", "codec": {"name": "uint4"}}, "codec.name"),
        ({"codec": {"name": "webp-50"}}, "codec.name"),
    ],
)
def test_impossible_protection_is_refused(settings, key):
    with pytest.raises(ConfigError) as caught:
        load_config(settings)
    assert f"\n  {key}: " in str(caught.value), caught.value


def test_protection_that_fits_is_taken():
    config = load_config({**HIDDEN, **NOISE, "schedule": "two-stage", "epochs": 3, "train": {"front_epochs": 5}})
    assert (config.suppresses, config.front_first, config.front_epochs, config.releases) == (True, True, 5, 3)
    assert load_config({**NOISE, "schedule": "freeze-and-log"}).releases == 1
    assert load_config({"method": "local"}).releases == 0
    assert load_config({"model": {"codebook": 4}}).codec_name == "code"
    assert load_config({"method": "upload", "codec": {"name": "avif-40"}}).codec_name == "avif-40"


def test_the_mixture_term_suppresses_without_exits():
    six = {"desired": SEVEN["desired"][:6], "sensitive": "masculine"}
    config = load_config({**NOISE, "data": six, "adversary": {"mixture": 1.0}})
    assert config.suppresses and not config.adversary.exits


def test_the_cloud_knows_the_noise_and_not_what_it_hides():
    config = load_config({**HIDDEN, **NOISE})
    assert config.agreement()["dp"]["epsilon"] == 4
    assert "masculine" not in str(config.agreement()) and "adversary" not in config.agreement()


@pytest.mark.parametrize(
    ("data", "share"),
    [({}, 0.0), ({"sensitive": "masculine"}, 0.1), ({"sensitive": "masculine", "audit_share": 0}, 0.0)],
)
def test_images_are_set_apart_for_the_audit_where_there_is_something_to_hide(
    data: dict[str, object], share: float, tmp_path: Path
) -> None:
    config = load_config({"data": data})
    assert config.audit_share == share
    assert load_config({"data": data, "dp": {"mechanism": "gaussian", "sigma": 1.0, "clip": 1.0}}).audit_share == share
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_run_config(tmp_path).audit_share == share


def test_a_run_from_before_the_share_had_none(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data:\n  sensitive: [masculine]\n")
    assert load_run_config(tmp_path).audit_share == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"codebook": 4}, "dp": {"mechanism": "randomised-response", "epsilon": 2}},
        {"dp": {"mechanism": "gaussian", "sigma": 1, "clip": 1}},
        {"train": {"freeze": "front"}},
    ],
)
def test_the_default_bottleneck_is_for_runs_whose_front_learns_and_sends_without_noise(changes):
    assert load_config({}).bottleneck == "auto"
    assert load_config(changes).bottleneck is None
    assert load_config({}, ["model.bottleneck=null"]).bottleneck is None
    assert load_config({**changes, "model": {"bottleneck": "8x4x4"}} if "model" not in changes else {}).bottleneck


def test_a_target_in_bytes_has_a_short_form() -> None:
    long = load_config({"codec": {"name": "learned", "bytes": 90}})
    for short in ({"name": "learned-90"}, {"name": "learned-90", "bytes": None}, {"name": "learned-90", "bytes": 90}):
        assert load_config({"codec": short}) == long
    assert long.codec_name == "learned-90"
    assert load_config({}, long.model_dump(mode="json")) == long
    for facts in (long.agreement(), long.identity()):
        assert facts["codec"] == {"name": "learned-90"}
    assert load_config(long, {"codec": {"bytes": 91}}).identity() != long.identity()


def test_a_reference_is_the_end_of_the_codecs_name() -> None:
    once = {"schedule": "freeze-and-log"}
    long = load_config({**once, "codec": {"name": "learned", "bytes": 90, "reference": "previous"}})
    short = {**once, "codec": {"name": "learned-90-previous", "reference": None}}
    assert load_config(short) == long and long.codec_name == "learned-90-previous"
    usual = load_config({"codec": {"reference": "previous"}, "schedule": "freeze-and-log"})
    assert usual.codec_name == "uint8-previous"
    assert usual.agreement()["codec"] == usual.identity()["codec"] == {"name": "uint8-previous"}
    cloud = load_config({"fleet": {"expect": 2}, "schedule": "freeze-and-log"})
    assert config_of_edge(cloud, usual.agreement()).codec_name == "uint8-previous"
    assert config_of_edge(load_config(usual, {"fleet": {"expect": 2}}), cloud.agreement()).codec_name == "uint8"


def test_an_edge_of_several_may_have_a_target_of_its_own() -> None:
    cloud = load_config({"codec": {"name": "learned", "bytes": 90}, "fleet": {"expect": 2}})
    for name in ("learned-200", "uint8"):
        assert config_of_edge(cloud, {"codec": {"name": name}}).codec_name == name
    plain = load_config({"fleet": {"expect": 2}})
    assert config_of_edge(plain, {"codec": {"name": "learned-200"}}).codec_name == "learned-200"
    with pytest.raises(ConfigError, match=r"codec\.bytes"):
        config_of_edge(plain, {"codec": {"name": "learned-9"}})


@pytest.mark.parametrize("text", ["", "# data: {path: photographs}\n"])
def test_a_file_without_settings_is_refused(tmp_path, text):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"holds no settings; 'smartedge init .* --force' writes some"):
        load_config(file, ["epochs=2"])


def test_a_network_is_divided_as_the_settings_say():
    """Each of them has its place; all differ."""
    model = {"name": "vgg11", "cut": "features.3", "small_input": False, "args": {"drop_rate": 0.1}}
    model |= {"bottleneck": "4x3x2", "weights": "timm", "adapter": 5, "exit": {"width": 24, "depth": 3}}
    data = {"image_size": "24x40", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    config = load_config({"model": model, "data": data, "train": {"freeze": ["features.0"]}, "seed": 7})
    found = config.division(11)
    assert found == Blueprint(
        name="vgg11",
        outputs=11,
        image_size=ImageSize(24, 40),
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        small_input=False,
        seed=7,
        weights="timm",
        arguments={"drop_rate": 0.1},
        at="features.3",
        bottleneck=(4, 3, 2),
        codebook=None,
        exit_width=24,
        exit_depth=3,
        freeze=("features.0",),
        adapter=5,
    )
    assert load_config({"model": {"codebook": 9}}).division(2).codebook == 9


@pytest.mark.parametrize("name", ["weights", "front", "start"])
def test_every_file_that_a_network_is_made_from_counts_by_its_content(name: str, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(name.encode())
    config = load_config({"schedule": "two-stage", "model": {name: str(file)}, "data": {"image_size": 8}})
    config.check_files()
    assert (config.agreement()[name], config.identity()[name]) == (hashlib.sha256(name.encode()).hexdigest(),) * 2
    file.unlink()
    with pytest.raises(ConfigError, match=rf"model\.{name}: .*a\.safetensors is not there; copy the file"):
        config.check_files()
    os.mkfifo(file)
    with pytest.raises(ConfigError, match=rf"model\.{name}: .*a\.safetensors is a folder, pipe or device; copy"):
        config.check_files()
    with pytest.raises(ConfigError, match=r"a\.safetensors cannot be read \(not a file but a folder, pipe or device\)"):
        config.agreement()


def test_the_file_of_a_front_may_have_the_cut_in_its_name(tmp_path: Path) -> None:
    config = load_config({"model": {"cut": "layer2", "start": str(tmp_path / "{cut}.safetensors")}})
    assert config.file_of_front("start") == tmp_path / "layer2.safetensors"
    assert config.file_of_front("front") is None and config.begins_with_a_file
    assert not load_config({}).begins_with_a_file


def test_images_that_are_not_kept_come_in_another_order_and_make_another_run() -> None:
    kept, streamed, smaller = (load_config({"data": {"cache_bytes": size}}) for size in (2**30, 0, 2**20))
    assert kept.identity() == smaller.identity() != streamed.identity()


def test_a_folder_in_place_of_a_run_says_which_runs_are_in_it(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no run; train one with 'smartedge train'"):
        load_run_config(tmp_path)
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("epochs: 3\n")
    with pytest.raises(RunError, match=r"holds no run; give one of those in it: a, b$"):
        load_run_config(tmp_path)
    with pytest.raises(RunError, match=r"config\.yaml: holds no run; it is a file: give the folder"):
        load_run_config(tmp_path / "a" / "config.yaml")
    assert load_run_config(tmp_path / "a").epochs == 3
