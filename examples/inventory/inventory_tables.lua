-- What this game has in the database. A purse is a row by its uid; stacks of items have two columns
-- as their key, so they are read and written by statements alone.
return {
  tables = {
    purse = { key = "uid", columns = "uid u32, coins i64" },
  },
  statements = {
    take_coins = {
      "UPDATE purse SET coins = coins - :coins WHERE uid = :uid AND coins >= :coins",
      parameters = "uid u32, coins i64", touches = { purse = "uid" },
    },
    add_items = {
      -- Nothing for who has no purse.
      sqlite = [[INSERT INTO stack (uid, item, count)
        SELECT uid, :item, :count FROM purse WHERE uid = :uid
        ON CONFLICT (uid, item) DO UPDATE SET count = count + :count]],
      mysql = [[INSERT INTO stack (uid, item, count)
        SELECT uid, :item, :count FROM purse WHERE uid = :uid
        ON DUPLICATE KEY UPDATE stack.count = stack.count + :count]],
      parameters = "uid u32, item u16, count u32", touches = {},
    },
    take_items = {
      "UPDATE stack SET count = count - :n WHERE uid = :uid AND item = :item AND count >= :n",
      parameters = "uid u32, item u16, n u32", touches = {},
    },
    stacks = {
      "SELECT item, count FROM stack WHERE uid = :uid AND count > 0 ORDER BY item",
      parameters = "uid u32",
    },
  },
}
