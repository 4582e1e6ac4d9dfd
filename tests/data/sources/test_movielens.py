import pytest

from recbole_lite.data.sources.movielens import MovieLensCsv, MovieLensDat, split_year
from recbole_lite.data.sources.prepare_dataset import prepare
from recbole_lite.data.sources.source_files import SourceFiles
from recbole_lite.utils.errors import DataError

ML_100K = {
    "ml-100k/u.genre": "unknown|0\nAction|1\nChildren's|2\nComedy|3\n\n",
    "ml-100k/u.item": (
        "1|Toy Story (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?Toy%20Story|0|0|1|1\n"
        "267|unknown||||1|0|0|0\n"
        "543|Misérables, Les (1995)|01-Jan-1995||http://us.imdb.com/|0|0|0|0\n"
        "1412|Land Before Time III (1995) (V)|01-Jan-1995||http://us.imdb.com/|0|1|1|0\n"
    ).encode("iso-8859-1"),
    "ml-100k/u.user": "1|24|M|technician|85711\n2|53|F|other|T8H1N\n",
    "ml-100k/u.data": "2\t267\t3\t881250949\n1\t1\t5\t881250949\n1\t543\t4\t881250000\n",
}
ML_20M = {
    "ml-20m/ratings.csv": (
        "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n1,29,4.0,1112484676\n7,2,0.5,1112484819\n"
    ),
    "ml-20m/movies.csv": (
        "movieId,title,genres\n"
        "2,Jumanji (1995),Adventure|Children|Fantasy\n"
        '29,"City of Lost Children, The (Cité des enfants perdus, La) (1995)",Adventure|Sci-Fi\n'
        '3,"Say ""Hi"" (2007-)",(no genres listed)\n'
        "4,Babylon 5,Sci-Fi\n"
    ),
}


def text(folder, name):
    return (folder / name).read_bytes().decode("utf-8")


def test_ml_1m(ml_1m_zip, write_meta, data_path, tmp_path):
    write_meta(body=ml_1m_zip)
    (tmp_path / "ml-1m.zip").write_bytes(ml_1m_zip)
    made = prepare("tiny", data_path, tmp_path / "ml-1m.zip")
    assert made.differences == []
    assert text(made.folder, "tiny.inter") == (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "1\t2\t5\t978300760\n"
        "1\t1\t3\t978302109\n"
        "2\t1\t4\t978300275\n"
        "2\t2\t5\t978824291\n"
    )
    assert text(made.folder, "tiny.item") == (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tgenre:token_seq\n"
        "1\tToy Story\t1995\tAnimation Children's Comedy\n"
        "2\tAmerican President, The\t1995\tComedy Drama Romance\n"
        "3\tMisérables, Les\t1995\tDrama Musical\n"
        '4\tCity of Lost Children, "The"\t1995\tAdventure Sci-Fi\n'
    )
    assert text(made.folder, "tiny.user") == (
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "1\t1\tF\t10\t48067\n"
        "2\t56\tM\t16\t70072\n"
        "3\t25\tM\t15\t55117-1234\n"
    )


def test_ml_100k(zipped, write_meta, data_path, tmp_path):
    body = zipped(ML_100K)
    write_meta(body=body, converter={"name": "movielens-100k"}, filters={}, expected={})
    (tmp_path / "100k.zip").write_bytes(body)
    folder = prepare("tiny", data_path, tmp_path / "100k.zip").folder
    assert text(folder, "tiny.inter") == (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "2\t267\t3\t881250949\n"
        "1\t1\t5\t881250949\n"
        "1\t543\t4\t881250000\n"
    )
    assert text(folder, "tiny.item") == (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tToy Story\t1995\tChildren's Comedy\n"
        "267\tunknown\t\tunknown\n"
        "543\tMisérables, Les\t1995\t\n"
        "1412\tLand Before Time III\t1995\tAction Children's\n"
    )
    assert text(folder, "tiny.user") == (
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "1\t24\tM\ttechnician\t85711\n"
        "2\t53\tF\tother\tT8H1N\n"
    )


def test_ml_20m(zipped, write_meta, data_path, tmp_path):
    body = zipped(ML_20M)
    write_meta(body=body, converter={"name": "movielens-csv"}, filters={}, expected={})
    (tmp_path / "20m.zip").write_bytes(body)
    folder = prepare("tiny", data_path, tmp_path / "20m.zip").folder
    assert text(folder, "tiny.inter") == (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "1\t2\t3.5\t1112486027\n"
        "1\t29\t4.0\t1112484676\n"
        "7\t2\t0.5\t1112484819\n"
    )
    assert text(folder, "tiny.item") == (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tgenre:token_seq\n"
        "2\tJumanji\t1995\tAdventure Children Fantasy\n"
        "29\tCity of Lost Children, The (Cité des enfants perdus, La)\t1995\tAdventure Sci-Fi\n"
        '3\tSay "Hi"\t2007\t\n'
        "4\tBabylon 5\t\tSci-Fi\n"
    )
    assert not (folder / "tiny.user").exists()


@pytest.mark.parametrize(
    "title, expected",
    [
        ("Toy Story (1995)", ("Toy Story", "1995")),
        ("Seven (Se7en) (1995)", ("Seven (Se7en)", "1995")),
        ("Fawlty Towers (1975-1979)", ("Fawlty Towers", "1975")),
        ("Big Bang Theory, The (2007-)", ("Big Bang Theory, The", "2007")),
        ("Doctor Who (2005\u20132008)", ("Doctor Who", "2005")),
        (
            "Marlene Dietrich: Shadow and Light (1996) ",
            ("Marlene Dietrich: Shadow and Light", "1996"),
        ),
        ("Land Before Time III (1995) (V)", ("Land Before Time III", "1995")),
        ("1984", ("1984", "")),
        ("2001 (and more)", ("2001 (and more)", "")),
        ("Kådisbellan )  (1993)", ("Kådisbellan )", "1993")),
        ("(500) Days of Summer (2009)", ("(500) Days of Summer", "2009")),
    ],
)
def test_split_year(title, expected):
    assert split_year(title) == expected


def test_ml_10m_layout_is_an_option(ml_1m_members, tmp_path):
    (tmp_path / "movies.dat").write_text("5::Été :: Summer (1990)::Drama\n", encoding="utf-8")
    (tmp_path / "ratings.dat").write_text("1::5::3.5::838985046\n")
    converter = MovieLensDat(encoding="utf-8", has_users=False)
    files = SourceFiles([tmp_path])
    assert converter.items(files, None).frame.to_numpy().tolist() == [
        ["5", "Été :: Summer", "1990", "Drama"]
    ]
    assert converter.interactions(files).frame["rating"].tolist() == [3.5]
    assert converter.users(files) is None


@pytest.mark.parametrize(
    "line, message",
    [
        ("1::1::5", "a table of user_id, item_id, rating, timestamp expected"),
        ("1::1::five::9", "expected"),
        ("1::1::5::noon", "expected"),
        ("1::::5::9", "line 2: a value is missing"),
        ("1::1::::9", "line 2: a value is missing"),
    ],
)
def test_damaged_ratings(tmp_path, line, message):
    (tmp_path / "ratings.dat").write_text(f"1::1::5::9\n{line}\n")
    with pytest.raises(DataError, match=rf"ratings\.dat.*{message}"):
        MovieLensDat().interactions(SourceFiles([tmp_path]))


def test_damaged_movies_and_headers(tmp_path):
    (tmp_path / "movies.dat").write_text("1::Toy Story (1995)::Comedy\n\n2::Heat\n")
    with pytest.raises(
        DataError, match=r"movies\.dat, line 3: 3 fields separated by '::' expected"
    ):
        MovieLensDat().items(SourceFiles([tmp_path]), None)
    (tmp_path / "movies.csv").write_text("id,title\n1,x\n")
    with pytest.raises(DataError, match=r"movies\.csv, line 1: header"):
        MovieLensCsv().items(SourceFiles([tmp_path]), None)
    (tmp_path / "ratings.csv").write_text("movieId,userId,rating,timestamp\n1,1,1,1\n")
    with pytest.raises(DataError, match=r"ratings\.csv, line 1: header"):
        MovieLensCsv().interactions(SourceFiles([tmp_path]))
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n")
    with pytest.raises(DataError, match="no rows"):
        MovieLensCsv().interactions(SourceFiles([tmp_path]))


def test_ids_keep_leading_zeros_and_long_files_come_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("recbole_lite.data.sources.ratings.CHUNK_ROWS", 2)
    rows = [("007", "1"), ("7", "01"), ("007", "01"), ("9", "1"), ("7", "1")]
    lines = [f"{user}::{item}::5::{n}" for n, (user, item) in enumerate(rows)]
    (tmp_path / "ratings.dat").write_text("\n".join(lines) + "\n")
    frame = MovieLensDat().interactions(SourceFiles([tmp_path])).frame
    assert list(zip(frame["user_id"], frame["item_id"], strict=True)) == rows
    assert frame["timestamp"].tolist() == [0, 1, 2, 3, 4]
