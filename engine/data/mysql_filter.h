// What MariaDB Connector/C reads passes through MysqlPackets.
//
// Purpose:   Connector/C reads its sockets by a table of functions; in ours what is read is looked
//            at first. It is put into the library once for the process, and passes on all that is
//            not read within a MysqlFilterScope, as of connections that a host program has.
//            TLS is read by OpenSSL, and not looked at.
// Threads:   any.
// Ownership: a scope refers to its packets.
#pragma once

#include <mariadb/mysql.h>

#include "data/mysql_packets.h"

namespace perilune {

// False where the library has no such table: connect to nothing then.
bool install_mysql_filter(MYSQL* mysql);

// Within it, on this thread, what the library reads is of that connection.
class MysqlFilterScope {
  public:
    explicit MysqlFilterScope(MysqlPackets& packets);
    ~MysqlFilterScope();
    MysqlFilterScope(const MysqlFilterScope&) = delete;
    MysqlFilterScope& operator=(const MysqlFilterScope&) = delete;

  private:
    MysqlPackets* const outer_;
};

}  // namespace perilune
