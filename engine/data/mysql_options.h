// What services say of a connection to MySQL, and of a statement.
//
// Threads:   values.
// Ownership: a statement refers to bytes of the caller's.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "data/sql.h"

namespace perilune {

enum class MysqlTls : std::uint8_t {
    off,
    unverified,  // encrypted, with whoever answers
    on,          // the certificate has to be the host's, signed by one that is trusted
};

struct MysqlOptions {
    std::string host;
    std::uint16_t port = 3306;
    std::string user;
    std::string password;
    std::string database;  // "" for none
    MysqlTls tls = MysqlTls::off;
    std::string ca;           // file of certificates that are trusted; "": the system's
    std::string certificate;  // files of the client's own; "" for none
    std::string key;
    int connect_ms = 5000;
    std::size_t statements = 64;  // prepared ones that are kept
};

struct MysqlStatement {
    std::string_view sql;
    std::span<const SqlValue> values;
    bool prepared = false;  // also where there are no values
    RowLimits limits;
};

}  // namespace perilune
