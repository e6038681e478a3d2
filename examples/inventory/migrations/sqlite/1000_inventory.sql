-- Numbers from 1000 on are those of games.

CREATE TABLE purse (
  uid INTEGER PRIMARY KEY REFERENCES uinfo (uid),
  coins INTEGER NOT NULL CHECK (coins >= 0)
);

CREATE TABLE stack (
  uid INTEGER NOT NULL REFERENCES purse (uid),
  item INTEGER NOT NULL,
  count INTEGER NOT NULL CHECK (count >= 0),
  PRIMARY KEY (uid, item)
) WITHOUT ROWID;
