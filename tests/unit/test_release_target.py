from __future__ import annotations

import platform

import pytest

from celery_flame_ec2.errors import ReleaseError
from celery_flame_ec2.release.target import IMAGES, Target, choose


class TestChoose:
    def test_without_a_word_it_is_this_machine_with_a_glibc_that_every_image_has(self):
        here = choose()
        assert here.python == platform.python_version()
        assert here.platform.endswith("-manylinux_2_28")

    @pytest.mark.parametrize(
        ("image", "python", "glibc"),
        [
            ("debian-12", "3.11.2", "2_36"),
            ("debian-13", "3.13.5", "2_40"),
            ("ubuntu-22.04", "3.10.12", "2_35"),
            ("ubuntu-24.04", "3.12.3", "2_39"),
        ],
    )
    def test_an_image_names_python_and_glibc(self, image: str, python: str, glibc: str):
        expected = Target(python=python, platform=f"aarch64-manylinux_{glibc}")
        assert choose(image=image, platform="aarch64") == expected

    @pytest.mark.parametrize(
        ("said", "meant"), [("arm64", "aarch64"), ("aarch64", "aarch64"), ("amd64", "x86_64"), ("x86_64", "x86_64")]
    )
    def test_an_architecture_goes_by_both_of_its_names(self, said: str, meant: str):
        target = choose(python="3.12.3", platform=said)
        assert (target.platform, target.architecture) == (f"{meant}-manylinux_2_28", meant)

    def test_what_is_given_counts_more_than_the_image(self):
        target = choose(image="amazon-linux-2023", python="3.11.13", platform="x86_64-manylinux_2_17")
        assert target == Target(python="3.11.13", platform="x86_64-manylinux_2_17")

    def test_the_images_glibc_counts_where_only_its_python_is_another(self):
        assert (
            choose(image="amazon-linux-2023", python="3.11.13", platform="arm64").platform == "aarch64-manylinux_2_34"
        )


class TestRefusals:
    def test_an_unknown_image_is_told_with_those_that_are_known(self):
        with pytest.raises(ReleaseError, match=r"'debian-7' is none of the images known here \(amazon.*: say --python"):
            choose(image="debian-7")

    def test_an_image_whose_python_is_too_old_is_told_with_the_way_out(self):
        with pytest.raises(ReleaseError, match=r"Python 3\.9 is too old.*--image amazon-linux-2023 --python 3\.11\.2"):
            choose(image="amazon-linux-2023")

    @pytest.mark.parametrize("python", ["three", "2.7.18", "3", "3.11.2rc1", ""])
    def test_what_is_no_python_is_named(self, python: str):
        with pytest.raises(ReleaseError, match=r"is not a Python version; it looks like 3\.11\.2"):
            choose(python=python or " ")

    def test_an_old_python_is_refused(self):
        with pytest.raises(ReleaseError, match=r"^Python 3\.9\.2 is too old: a runner needs 3\.10 or later$"):
            choose(python="3.9.2")

    @pytest.mark.parametrize("platform", ["linux", "windows", "sparc-manylinux_2_28"])
    def test_a_platform_that_no_runner_has_is_named(self, platform: str):
        with pytest.raises(ReleaseError, match=rf"'{platform}' is no platform of a runner: .* aarch64 or x86_64"):
            choose(platform=platform)


def test_every_image_is_of_a_glibc_that_wheels_of_the_default_platform_run_on():
    assert all(tuple(map(int, image.glibc.split("_"))) >= (2, 28) for image in IMAGES.values())
