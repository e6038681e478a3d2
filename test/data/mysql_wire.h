// What a MySQL server sends, for the tests of MysqlPackets and what fuzzes it.
#pragma once

#include <string>
#include <string_view>

namespace perilune::wire {

using namespace std::string_literals;
using namespace std::string_view_literals;

inline std::string packet(std::string_view payload) {
    std::string bytes;
    for (const std::size_t shift : {0, 8, 16}) {
        bytes += static_cast<char>(payload.size() >> shift);
    }
    return (bytes += '\0').append(payload);
}

// The greeting of MariaDB with all that it can do, or of a server that can do little.
inline std::string greeting(bool can_much) {
    std::string bytes = "\n5.5.5-10.11-MariaDB";
    bytes.append(1, '\0').append(12, 'p').append(1, '\0');
    bytes.append(can_much ? "\xfe\xf7\x2d\2\0\xff\x81\x15"sv : "\xff\xa2\x2d\2\0\x0e\0\x15"sv);
    bytes.append(6, '\0').append(can_much ? "\x1f\0\0\0"sv : "\0\0\0\0"sv).append(12, 's');
    return bytes.append("\0mysql_native_password\0"sv);
}

inline const std::string kOk("\0\0\0\2\0\0\0", 7);

inline std::string login(bool can_much) { return packet(greeting(can_much)) + packet(kOk); }

inline std::string end(int status = 2) {
    return packet("\xfe\0\0"s + static_cast<char>(status) + '\0');
}

// A column, with the names of types where a server has them.
inline std::string definition(int type, bool can_much) {
    std::string bytes = "\3def\4test\1t\1t\2id\2id";
    if (can_much) bytes += '\0';
    bytes.append("\x0c\x3f\0\x14\0\0\0"sv) += static_cast<char>(type);
    return bytes.append("\1\0\0\0\0"sv);
}

}  // namespace perilune::wire
