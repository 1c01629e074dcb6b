"""43 queries of web analytics over one wide table, as in ClickBench, give what DuckDB gives."""

import duckdb
import pytest

from duckdb_oracle import SPREAD, connect, difference, load, rows_of

ROWS = 100_000

# `pick(n)` of a row is a number below n, skewed towards 0, so that groups have very different sizes.
MACROS = """
CREATE MACRO draw(i, salt) AS (hash(i * 1000003 + salt) % 1000000) / 1000000.0;
CREATE MACRO pick(i, salt, n) AS CAST(floor(n * draw(i, salt) * draw(i, salt + 500)) AS BIGINT);
"""

VIEWS = f"""
CREATE TABLE views AS SELECT
    i AS watch_id,
    CAST(pick(i, 1, 3) AS SMALLINT) AS java_enabled,
    CASE WHEN draw(i, 2) < 0.3 THEN 'Title ' || pick(i, 3, 500) WHEN draw(i, 2) < 0.32 THEN 'Gardens — ünïcode' ELSE '' END AS title,
    TIMESTAMP '2013-07-01 00:00:00' + to_seconds(CAST(floor(draw(i, 4) * 2678400) AS BIGINT)) AS event_time,
    CAST(TIMESTAMP '2013-07-01 00:00:00' + to_seconds(CAST(floor(draw(i, 4) * 2678400) AS BIGINT)) AS DATE) AS event_date,
    CAST(pick(i, 5, 60) AS INTEGER) AS counter_id,
    CAST(hash(pick(i, 6, 9000)) % 9223372036854775807 AS BIGINT) AS user_id,
    CAST(pick(i, 7, 400) AS INTEGER) AS region_id,
    CASE pick(i, 8, 5) WHEN 0 THEN 'https://example.com/' WHEN 1 THEN 'http://search.example/find?q=' || pick(i, 9, 700)
        WHEN 2 THEN 'https://www.shop.example/item/' || pick(i, 10, 4000) ELSE 'http://news.example/' || pick(i, 11, 90) END AS url,
    CASE WHEN draw(i, 12) < 0.5 THEN '' WHEN draw(i, 12) < 0.6 THEN NULL
        ELSE 'https://www.site' || pick(i, 13, 40) || '.example/page/' || pick(i, 14, 100) END AS referer,
    CAST(CASE WHEN draw(i, 15) < 0.8 THEN 0 ELSE pick(i, 15, 30) END AS SMALLINT) AS adv_engine_id,
    CAST(1000 + 16 * pick(i, 16, 60) AS SMALLINT) AS resolution_width,
    CAST(pick(i, 17, 20) AS SMALLINT) AS mobile_phone,
    CASE WHEN draw(i, 17) < 0.7 THEN '' ELSE 'Model ' || pick(i, 18, 60) END AS mobile_phone_model,
    CASE WHEN draw(i, 19) < 0.75 THEN '' ELSE 'phrase ' || pick(i, 20, 900) END AS search_phrase,
    CAST(pick(i, 21, 10) AS SMALLINT) AS search_engine_id,
    CAST(hash(pick(i, 22, 5000)) % 2147483647 AS INTEGER) AS client_ip,
    CAST(draw(i, 23) < 0.1 AS SMALLINT) AS is_refresh,
    CAST(draw(i, 24) < 0.2 AS SMALLINT) AS is_link,
    CAST(draw(i, 25) < 0.03 AS SMALLINT) AS is_download,
    CAST(draw(i, 26) < 0.1 AS SMALLINT) AS dont_count,
    CAST(pick(i, 27, 8) - 1 AS SMALLINT) AS traffic_source,
    CAST(hash(pick(i, 28, 50)) % 9223372036854775807 AS BIGINT) AS referer_hash,
    CAST(hash(pick(i, 29, 50)) % 9223372036854775807 AS BIGINT) AS url_hash,
    CAST(400 + pick(i, 30, 1600) AS SMALLINT) AS window_width,
    CAST(300 + pick(i, 31, 900) AS SMALLINT) AS window_height,
    CAST(draw(i, 32) * 100 AS DECIMAL(10, 4)) AS price,
    CASE WHEN draw(i, 33) < 0.2 THEN NULL ELSE draw(i, 34) END AS score
FROM range({ROWS}) AS r(i);
"""

IN_JULY = "counter_id = 3 AND event_date BETWEEN DATE '2013-07-01' AND DATE '2013-07-31'"

# Every ORDER BY with a LIMIT ends with columns that are unique, so that there is one right answer.
QUERIES = [
    "SELECT count(*) FROM views",
    "SELECT count(*) FROM views WHERE adv_engine_id <> 0",
    "SELECT sum(adv_engine_id), count(*), avg(resolution_width) FROM views",
    "SELECT avg(user_id) FROM views",
    "SELECT count(DISTINCT user_id) FROM views",
    "SELECT count(DISTINCT search_phrase) FROM views",
    "SELECT min(event_date), max(event_date) FROM views",
    "SELECT adv_engine_id, count(*) FROM views WHERE adv_engine_id <> 0 GROUP BY adv_engine_id ORDER BY count(*) DESC, adv_engine_id",
    "SELECT region_id, count(DISTINCT user_id) AS u FROM views GROUP BY region_id ORDER BY u DESC, region_id LIMIT 10",
    "SELECT region_id, sum(adv_engine_id), count(*) AS c, avg(resolution_width), count(DISTINCT user_id) FROM views GROUP BY region_id ORDER BY c DESC, region_id LIMIT 10",
    "SELECT mobile_phone_model, count(DISTINCT user_id) AS u FROM views WHERE mobile_phone_model <> '' GROUP BY mobile_phone_model ORDER BY u DESC, mobile_phone_model LIMIT 10",
    "SELECT mobile_phone, mobile_phone_model, count(DISTINCT user_id) AS u FROM views WHERE mobile_phone_model <> '' GROUP BY mobile_phone, mobile_phone_model ORDER BY u DESC, 1, 2 LIMIT 10",
    "SELECT search_phrase, count(*) AS c FROM views WHERE search_phrase <> '' GROUP BY search_phrase ORDER BY c DESC, search_phrase LIMIT 10",
    "SELECT search_phrase, count(DISTINCT user_id) AS u FROM views WHERE search_phrase <> '' GROUP BY search_phrase ORDER BY u DESC, search_phrase LIMIT 10",
    "SELECT search_engine_id, search_phrase, count(*) AS c FROM views WHERE search_phrase <> '' GROUP BY search_engine_id, search_phrase ORDER BY c DESC, 1, 2 LIMIT 10",
    "SELECT user_id, count(*) FROM views GROUP BY user_id ORDER BY count(*) DESC, user_id LIMIT 10",
    "SELECT user_id, search_phrase, count(*) FROM views GROUP BY user_id, search_phrase ORDER BY count(*) DESC, 1, 2 LIMIT 10",
    "SELECT count(*) FROM (SELECT user_id, search_phrase FROM views GROUP BY user_id, search_phrase) g",
    "SELECT user_id, extract(minute FROM event_time) AS m, search_phrase, count(*) FROM views GROUP BY user_id, m, search_phrase ORDER BY count(*) DESC, 1, 2, 3 LIMIT 10",
    "SELECT watch_id FROM views WHERE user_id = (SELECT max(user_id) FROM views)",
    "SELECT count(*) FROM views WHERE url LIKE '%shop%'",
    "SELECT search_phrase, min(url), count(*) AS c FROM views WHERE url LIKE '%shop%' AND search_phrase <> '' GROUP BY search_phrase ORDER BY c DESC, 1 LIMIT 10",
    "SELECT search_phrase, min(url), min(title), count(*) AS c, count(DISTINCT user_id) FROM views WHERE title LIKE '%Title%' AND url NOT LIKE '%.shop.%' AND search_phrase <> '' GROUP BY search_phrase ORDER BY c DESC, 1 LIMIT 10",
    "SELECT * FROM views WHERE url LIKE '%shop%' ORDER BY event_time, watch_id LIMIT 10",
    "SELECT search_phrase FROM views WHERE search_phrase <> '' ORDER BY event_time, search_phrase LIMIT 10",
    "SELECT search_phrase FROM views WHERE search_phrase <> '' ORDER BY search_phrase LIMIT 10",
    "SELECT search_phrase FROM views WHERE search_phrase <> '' ORDER BY event_time DESC, search_phrase DESC LIMIT 10 OFFSET 5",
    "SELECT counter_id, avg(length(url)) AS l, count(*) AS c FROM views WHERE url <> '' GROUP BY counter_id HAVING count(*) > 1000 ORDER BY l DESC, 1 LIMIT 25",
    "SELECT regexp_replace(referer, '^https?://(?:www\\.)?([^/]+)/.*$', '\\1') AS k, avg(length(referer)) AS l, count(*) AS c, min(referer) FROM views WHERE referer <> '' GROUP BY k HAVING count(*) > 100 ORDER BY l DESC, k LIMIT 25",
    "SELECT " + ", ".join(f"sum(resolution_width + {i})" for i in range(60)) + " FROM views",
    "SELECT search_engine_id, client_ip, count(*) AS c, sum(is_refresh), avg(resolution_width) FROM views WHERE search_phrase <> '' GROUP BY search_engine_id, client_ip ORDER BY c DESC, 1, 2 LIMIT 10",
    "SELECT watch_id, client_ip, count(*) AS c, sum(is_refresh), avg(resolution_width) FROM views GROUP BY watch_id, client_ip ORDER BY c DESC, 1, 2 LIMIT 10",
    "SELECT url, count(*) AS c FROM views GROUP BY url ORDER BY c DESC, url LIMIT 10",
    "SELECT 1, url, count(*) AS c FROM views GROUP BY 1, url ORDER BY c DESC, url LIMIT 10",
    "SELECT client_ip, client_ip - 1, client_ip - 2, count(*) AS c FROM views GROUP BY client_ip, client_ip - 1, client_ip - 2 ORDER BY c DESC, 1 LIMIT 10",
    f"SELECT url, count(*) AS page_views FROM views WHERE {IN_JULY} AND dont_count = 0 AND is_refresh = 0 AND url <> '' GROUP BY url ORDER BY page_views DESC, url LIMIT 10",
    f"SELECT title, count(*) AS page_views FROM views WHERE {IN_JULY} AND dont_count = 0 AND is_refresh = 0 AND title <> '' GROUP BY title ORDER BY page_views DESC, title LIMIT 10",
    f"SELECT url, count(*) AS page_views FROM views WHERE {IN_JULY} AND is_refresh = 0 AND is_link <> 0 AND is_download = 0 GROUP BY url ORDER BY page_views DESC, url LIMIT 10 OFFSET 10",
    f"SELECT traffic_source, search_engine_id, adv_engine_id, CASE WHEN search_engine_id = 0 AND adv_engine_id = 0 THEN referer ELSE '' END AS src, url AS dst, count(*) AS page_views FROM views WHERE {IN_JULY} AND is_refresh = 0 GROUP BY traffic_source, search_engine_id, adv_engine_id, src, dst ORDER BY page_views DESC, 1, 2, 3, 4, 5 LIMIT 10 OFFSET 100",
    f"SELECT url_hash, event_date, count(*) AS page_views FROM views WHERE {IN_JULY} AND is_refresh = 0 AND traffic_source IN (-1, 6) AND referer_hash = (SELECT min(referer_hash) FROM views) GROUP BY url_hash, event_date ORDER BY page_views DESC, 1, 2 LIMIT 10",
    f"SELECT window_width, window_height, count(*) AS page_views FROM views WHERE {IN_JULY} AND is_refresh = 0 AND dont_count = 0 GROUP BY window_width, window_height ORDER BY page_views DESC, 1, 2 LIMIT 10 OFFSET 100",
    "SELECT date_trunc('minute', event_time) AS m, count(*) AS page_views FROM views WHERE event_date BETWEEN DATE '2013-07-14' AND DATE '2013-07-15' AND is_refresh = 0 AND dont_count = 0 GROUP BY m ORDER BY m LIMIT 10 OFFSET 1000",
    "SELECT region_id, sum(price), avg(price), max(score), avg(score), count(score) FROM views GROUP BY region_id ORDER BY 2 DESC, 1 LIMIT 20",
]


@pytest.fixture(scope="module")
def duck():
    connection = duckdb.connect()
    connection.execute(MACROS)
    connection.execute(VIEWS)
    return connection


@pytest.fixture(scope="module")
def plexus(empty_uri, duck):
    connection = connect(empty_uri)
    load(connection, duck, ["views"])
    yield connection
    connection.close()


@pytest.mark.parametrize("setting", ["RESET plexus.task_bytes", SPREAD])
def test_queries_give_what_duckdb_gives(plexus, duck, setting):
    assert len(QUERIES) == 43
    rows_of(plexus, setting)
    failures = []
    for sql in QUERIES:
        expected = duck.execute(sql).fetchall()
        assert expected, f"a query without rows compares nothing: {sql}"
        found = difference(rows_of(plexus, sql), expected)
        if found:
            failures.append(f"{sql}\n  {found}")
    assert not failures, "\n".join(failures)
