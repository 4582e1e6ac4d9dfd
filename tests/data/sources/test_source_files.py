import gzip
import io
import zipfile

import pytest

from recbole_lite.data.sources import source_files
from recbole_lite.data.sources.source_files import SourceFiles
from recbole_lite.utils.errors import DataError


def read(paths, name):
    with SourceFiles(paths).open(name) as stream:
        return stream.read()


@pytest.mark.parametrize(
    "member",
    ["../evil.dat", "/etc/evil.dat", "ml-1m/../../evil.dat", "..\\evil.dat", "C:\\evil.dat"],
)
def test_paths_that_lead_out_of_the_archive(zipped, tmp_path, member):
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"ml-1m/ratings.dat": "x", member: "evil"}))
    with pytest.raises(DataError, match=r"evil\.dat' points outside the archive"):
        read([path], "ratings.dat")


def test_links(tmp_path):
    link = zipfile.ZipInfo("ml-1m/ratings.dat")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        read([tmp_path / "a.zip"], "ratings.dat")


def test_a_member_that_shrank_too_well(zipped, tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"ratings.dat": bytes(4 << 20)}))
    with pytest.raises(DataError, match=r"unpacks from [\d,]+ to 4,194,304 bytes"):
        read([tmp_path / "a.zip"], "ratings.dat")


def test_a_member_that_is_too_large(zipped, tmp_path, monkeypatch):
    monkeypatch.setattr(source_files, "MAX_MEMBER_BYTES", 3)
    (tmp_path / "a.zip").write_bytes(zipped({"ratings.dat": "four"}))
    with pytest.raises(DataError, match=r"unpacks to 4 bytes \(limit 3\)"):
        read([tmp_path / "a.zip"], "ratings.dat")


def test_a_member_that_lies_about_its_size_is_not_read_past_it(zipped, tmp_path):
    body = bytearray(zipped({"ratings.dat": b"0123456789" * 10}))
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = body.index(mark) + offset
        body[place : place + 4] = (5).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(body)
    with pytest.raises(DataError, match="damaged"):
        read([tmp_path / "a.zip"], "ratings.dat")


def test_the_shallowest_member_counts(zipped, tmp_path):
    members = {
        "__MACOSX/ratings.dat": "mac",
        "ml-1m/old/ratings.dat": "old",
        "ml-1m/ratings.dat": "right",
    }
    (tmp_path / "renamed by the browser (1).zip").write_bytes(zipped(members))
    assert read(list(tmp_path.glob("*.zip")), "ratings.dat") == b"right"


def test_folders_and_gzip(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.csv").write_bytes(b"sub")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"packed"))
    (tmp_path / "c.csv").write_bytes(b"unpacked")
    assert read([tmp_path], "a.csv") == b"sub"
    assert read([tmp_path], "b.csv.gz") == b"packed"
    assert read([tmp_path], "c.csv.gz") == b"unpacked"
    assert read([tmp_path / "c.csv", tmp_path / "b.csv.gz"], "b.csv.gz") == b"packed"


def test_missing(zipped, tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"x": "y"}))
    with pytest.raises(DataError, match=r"no ratings\.dat in .*a\.zip"):
        read([tmp_path / "a.zip"], "ratings.dat")


def test_a_cut_gzip_is_damage_while_it_is_read(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(bytes(1000))[:-6])
    with pytest.raises(DataError, match=r"a\.csv\.gz: the file is damaged or incomplete"):
        read([tmp_path], "a.csv.gz")


def test_a_zip_with_a_flipped_byte(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("ratings.dat", "1::1::5::9\n")
    (tmp_path / "a.zip").write_bytes(stream.getvalue().replace(b"5::9", b"4::9"))
    with pytest.raises(DataError, match="damaged"):
        read([tmp_path / "a.zip"], "ratings.dat")
