-- Numbers from 1000 on are those of games.

CREATE TABLE purse (
  uid INT UNSIGNED NOT NULL PRIMARY KEY,
  coins BIGINT NOT NULL CHECK (coins >= 0),
  FOREIGN KEY (uid) REFERENCES uinfo (uid)
) ENGINE = InnoDB;

CREATE TABLE stack (
  uid INT UNSIGNED NOT NULL,
  item INT UNSIGNED NOT NULL,
  count INT UNSIGNED NOT NULL,
  PRIMARY KEY (uid, item),
  FOREIGN KEY (uid) REFERENCES purse (uid)
) ENGINE = InnoDB;
