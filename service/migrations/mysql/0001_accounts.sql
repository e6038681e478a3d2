-- Accounts, what players own, and what dbproxy itself keeps.

CREATE TABLE uinfo (
  uid INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  unick VARCHAR(32) NOT NULL,
  uname VARCHAR(32) NULL UNIQUE,
  upwd VARCHAR(128) NULL,
  usex INT NOT NULL DEFAULT 0,
  uface INT NOT NULL DEFAULT 0,
  uphone VARCHAR(32) NULL,
  uemail VARCHAR(128) NULL,
  ucity VARCHAR(64) NULL,
  guest_key_hash CHAR(64) NULL UNIQUE,
  is_guest INT NOT NULL DEFAULT 1,
  uvip INT NOT NULL DEFAULT 0,
  vip_endtime INT UNSIGNED NOT NULL DEFAULT 0,
  status INT NOT NULL DEFAULT 1,
  login_epoch BIGINT NOT NULL DEFAULT 0,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE ugame (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  uid INT UNSIGNED NOT NULL UNIQUE,
  uexp INT NOT NULL DEFAULT 0,
  status INT NOT NULL DEFAULT 1,
  uchip BIGINT NOT NULL DEFAULT 0,
  udata MEDIUMBLOB NULL,
  uvip INT NOT NULL DEFAULT 0,
  uvip_endtime INT UNSIGNED NOT NULL DEFAULT 0,
  owner_epoch BIGINT NOT NULL DEFAULT 0,
  FOREIGN KEY (uid) REFERENCES uinfo (uid)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Keys that the nodes of a database share.
CREATE TABLE secrets (
  name VARCHAR(64) NOT NULL PRIMARY KEY,
  value VARBINARY(256) NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Writes that may be asked for again: each id is done once.
CREATE TABLE operations (
  number BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  id VARCHAR(64) NOT NULL UNIQUE,
  result MEDIUMBLOB NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- How far each journal has been written.
CREATE TABLE journals (
  journal VARCHAR(64) NOT NULL PRIMARY KEY,
  number BIGINT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
