-- The tables of the standard services and the statements about them, for dbproxy; what can be
-- declared is at the top of dbproxy/schema.lua. They are made by migrations/.
return {
  tables = {
    uinfo = {
      key = "uid", assigned = true, unique = { "uname", "guest_key_hash" },
      created = "created_at", updated = "updated_at",
      columns = [[
        uid u32, unick text(32), uname text(32)?, upwd text(128)?, usex i32, uface i32,
        uphone text(32)?, uemail text(128)?, ucity text(64)?, guest_key_hash text(64)?,
        is_guest i32, uvip i32, vip_endtime u32, status i32, login_epoch i64, created_at i64,
        updated_at i64]],
    },
    ugame = {
      key = "uid", owner = "owner_epoch",
      columns = [[
        uid u32, uexp i32, status i32, uchip i64, udata table(1000000)?, uvip i32,
        uvip_endtime u32, owner_epoch i64]],
    },
    secrets = { key = "name", columns = "name text(64), value bytes(256)" },
  },
  statements = {
    count_login = {
      "UPDATE uinfo SET login_epoch = login_epoch + 1 WHERE uid = :uid AND status = 1",
      parameters = "uid u32", touches = { uinfo = "uid" },
    },
    login_epoch = {
      "SELECT login_epoch FROM uinfo WHERE uid = :uid", parameters = "uid u32",
    },
    count_accounts = { "SELECT COUNT(*) AS number FROM uinfo" },
  },
}
