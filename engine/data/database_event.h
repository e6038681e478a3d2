// DatabaseEvent: what services are told about their databases.
//
// Purpose:   the `detail` of messages of MessageKind::database; Message::id is the connection's or
// the
//            database's.
// Threads:   values.
#pragma once

#include <cstdint>

namespace perilune {

enum class DatabaseEvent : std::uint8_t {
    // Of a connection to MySQL.
    mysql_connected,  // `session`: who asked for it
    mysql_failed,     // it can't be made, and is gone. Payload: a result (data/row_batch.h)
    mysql_ready,      // what its operation waits for has come
    mysql_ended,      // the server closed it while it was idle
    // Of a SQLite database. `session`: who waits.
    sqlite_rows,  // more follows. Payload: rows
    sqlite_done,  // Payload: rows, and a result
};

}  // namespace perilune
