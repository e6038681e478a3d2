-- The tables of dbproxy_test.lua.
return {
  tables = {
    thing = {
      key = "id", updated = "updated_at", unique = { "name" },
      columns = [[
        id u32, name text(8)?, small i8, big u64?, ratio f64?, flag bool, raw bytes(16)?,
        doc json(1000)?, blob table(1000)?, updated_at i64]],
    },
    hero = {
      key = "uid", owner = "epoch", columns = "uid u32, gold i64, bag table(1000)?, epoch i64",
    },
  },
  statements = {
    give = {
      "UPDATE hero SET gold = gold + :gold WHERE uid = :uid AND gold + :gold >= 0",
      parameters = "uid u32, gold i32", touches = { hero = "uid" },
    },
    rich = {
      "SELECT uid, gold FROM hero WHERE gold >= :gold ORDER BY uid", parameters = "gold i64",
    },
    all_gold = { "SELECT CAST(SUM(gold) AS SIGNED) AS gold, COUNT(*) AS heroes FROM hero" },
    slow = {
      sqlite = [[SELECT COUNT(*) AS number FROM (WITH RECURSIVE numbers (n) AS
        (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000) SELECT n FROM numbers)]],
      mysql = "SELECT SLEEP(0.1) AS number",
    },
    named = {
      "SELECT * FROM thing WHERE name = :name", parameters = "name text(100)?", rows = "thing",
    },
  },
}
