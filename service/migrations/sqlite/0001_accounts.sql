-- Accounts, what players own, and what dbproxy itself keeps.

CREATE TABLE uinfo (
  uid INTEGER PRIMARY KEY AUTOINCREMENT,
  unick TEXT NOT NULL,
  uname TEXT UNIQUE,
  upwd TEXT,
  usex INTEGER NOT NULL DEFAULT 0,
  uface INTEGER NOT NULL DEFAULT 0,
  uphone TEXT,
  uemail TEXT,
  ucity TEXT,
  guest_key_hash TEXT UNIQUE,
  is_guest INTEGER NOT NULL DEFAULT 1,
  uvip INTEGER NOT NULL DEFAULT 0,
  vip_endtime INTEGER NOT NULL DEFAULT 0,
  status INTEGER NOT NULL DEFAULT 1,
  login_epoch INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
);

CREATE TABLE ugame (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  uid INTEGER NOT NULL UNIQUE REFERENCES uinfo (uid),
  uexp INTEGER NOT NULL DEFAULT 0,
  status INTEGER NOT NULL DEFAULT 1,
  uchip INTEGER NOT NULL DEFAULT 0,
  udata BLOB,
  uvip INTEGER NOT NULL DEFAULT 0,
  uvip_endtime INTEGER NOT NULL DEFAULT 0,
  owner_epoch INTEGER NOT NULL DEFAULT 0
);

-- Keys that the nodes of a database share.
CREATE TABLE secrets (
  name TEXT PRIMARY KEY,
  value BLOB NOT NULL
);

-- Writes that may be asked for again: each id is done once.
CREATE TABLE operations (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  result BLOB
);

-- How far each journal has been written.
CREATE TABLE journals (
  journal TEXT PRIMARY KEY,
  number INTEGER NOT NULL
);
