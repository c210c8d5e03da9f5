import io
import os
import tarfile
from pathlib import Path

from distill.execute.archive import write_archive


def pack(files: dict[str, Path]) -> bytes:
    out = io.BytesIO()
    write_archive(files, out)
    return out.getvalue()


class TestWriteArchive:
    def test_the_same_files_give_the_same_bytes(self, tmp_path: Path) -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        one.write_text("1")
        two.write_text("2")
        first = pack({"a.json": one, "lora/m/w.bin": two})
        os.utime(one, (1, 1))
        one.chmod(0o600)
        assert pack({"lora/m/w.bin": two, "a.json": one}) == first

    def test_reads_back(self, tmp_path: Path) -> None:
        (tmp_path / "one").write_text("1")
        with tarfile.open(fileobj=io.BytesIO(pack({"lora/a.json": tmp_path / "one"}))) as tar:
            (member,) = tar.getmembers()
            content = tar.extractfile(member)
            assert content is not None
            assert (member.name, member.mtime, content.read()) == ("lora/a.json", 0, b"1")
