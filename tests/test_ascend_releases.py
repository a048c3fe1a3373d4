"""Versions in order, image names read, and which driver a release asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropeway.engines.ascend_releases import (
    DRIVER_NEEDS,
    MODEL_NEEDS,
    RELEASES,
    ImageTag,
    driver_needs,
    image_tag,
    order,
)
from serve_lines import release


@pytest.mark.parametrize(
    "rising",
    [
        ("8.1.RC1", "8.3.RC1", "8.3.RC2", "8.3", "8.5.0", "8.5.1", "9.0.0", "9.2.0"),
        ("22.0.4.1", "23.0.rc1.b070", "24.1.rc1", "24.1.rc3", "24.1.rc3.7", "24.1.0", "24.1.0.3",
         "25.0.rc1.1", "25.0", "25.2.3", "25.5", "25.5.1", "26.0.rc1", "26.0.rc2"),
        ("0.11.0rc0", "0.11.0rc3", "0.11.0", "0.12.0rc1", "0.23.0", "0.23.0.post1"),
        ("4.19.90-2107", "5.10.0-216.0.0.115.oe2203sp4.aarch64", "6.6.0"),
        ("7.0.0", "7.7.99", "8.9.9"),
    ],
)  # fmt: skip
def test_versions_are_put_in_order(rising):
    assert sorted(sorted(rising), key=order) == list(rising)


def test_zeros_at_the_end_say_nothing():
    assert order("25.5") == order("25.5.0")
    assert order("8.3.RC1") == order("8.3.0.rc1")


@given(st.text(max_size=40))
def test_any_text_has_a_place_in_the_order(text):
    assert order(text) <= order(text)


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("quay.io/ascend/vllm-ascend:v0.11.0rc0", ImageTag("0.11.0rc0", "A2")),
        ("quay.io/ascend/vllm-ascend:v0.11.0rc0-a3-openeuler", ImageTag("0.11.0rc0", "A3")),
        (
            "m.daocloud.io/quay.io/ascend/vllm-ascend:v0.23.0.post1",
            ImageTag("0.23.0.post1", "A2"),
        ),
        ("vllm-ascend:0.18.0-310p", ImageTag("0.18.0", "310P")),
        ("quay.io/ascend/vllm-ascend:main", None),
        ("ubuntu:22.04", None),
    ],
)
def test_the_name_of_an_image_says_release_and_product(name, tag):
    assert image_tag(name) == tag


def test_the_strictest_driver_that_applies_comes_first():
    assert [need.driver for need in driver_needs(release("0.11.0rc0"))] == ["24.1.rc1"]
    assert [need.driver for need in driver_needs(release("0.30.0rc2"))] == [
        "26.0.rc1", "25.5.1", "25.5", "25.0", "24.1.rc1",
    ]  # fmt: skip


def test_every_row_has_a_source_and_releases_are_listed_once():
    assert len({row.version for row in RELEASES}) == len(RELEASES)
    assert all(need.source and need.why for need in DRIVER_NEEDS)
    assert all(need.source and need.why for need in MODEL_NEEDS)


@pytest.mark.parametrize(
    ("version", "newest"),
    [("0.11.0rc0", "4.56.2"), ("0.11.0", "4.57.1"), ("0.23.0", "5.5.4"), ("0.13.0", None),
     ("0.9.1", None), ("0.11.0rc1", None)],
)  # fmt: skip
def test_only_an_upper_limit_says_what_an_image_has(version, newest):
    assert release(version).newest_transformers == newest
