// Fuzzes what looks at a MySQL server's packets: any bytes in any pieces are taken or refused as in
// one piece, for the same reason, what was refused stays so, and no limit is passed.
#include <mariadb/mysql.h>

#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>

#include "../data/mysql_wire.h"
#include "data/mysql_packets.h"
#include "driver.h"

namespace perilune::fuzz {

namespace {

using Answer = MysqlPackets::Answer;
using namespace std::string_literals;
using namespace std::string_view_literals;

// The answer to a statement that has values of these types.
std::string prepared(bool can_much) {
    std::string bytes = wire::packet("\0\1\0\0\0\3\0\1\0\0\0\0"sv);
    bytes += wire::packet(wire::definition(MYSQL_TYPE_STRING, can_much)) + wire::end();
    for (const int type : {MYSQL_TYPE_LONG, MYSQL_TYPE_VAR_STRING, MYSQL_TYPE_DATETIME}) {
        bytes += wire::packet(wire::definition(type, can_much));
    }
    return bytes + wire::end();
}

// What is said of an answer: `how` says to what, and by which server; or of a greeting.
std::string read(std::string_view input, std::uint8_t how, std::size_t piece_size) {
    MysqlPackets packets((how & 16) != 0);
    MysqlColumns columns;
    const bool can_much = (how & 4) != 0;
    if ((how & 8) == 0 && packets.accept(wire::login(can_much)) && packets.idle()) {
        packets.expect(Answer::prepare, &columns);
        check(packets.accept(prepared(can_much)) && packets.idle() && columns.size() == 3);
        constexpr std::array kAnswers = {Answer::prepare, Answer::execute, Answer::query};
        packets.expect(kAnswers[how % 4 % 3], &columns);
    }
    while (!input.empty()) {
        // A copy, so that a sanitizer sees a view that outlives its piece.
        const std::string piece(input.substr(0, piece_size));
        input.remove_prefix(piece.size());
        if (!packets.accept(piece)) {
            check(!packets.accept("x") && packets.problem()[0] != '\0');
            return packets.problem();
        }
        check(columns.size() <= MysqlPackets::kMaxColumns);
    }
    return packets.idle() ? "idle" : "more";
}

// The corpus, of which random runs put packets together and change bytes.
std::array<std::string, 24> corpus(bool can_much) {
    const auto column = [&](int type) { return wire::packet(wire::definition(type, can_much)); };
    const std::string three = column(MYSQL_TYPE_LONG) + column(MYSQL_TYPE_VAR_STRING) +
                              column(MYSQL_TYPE_DATETIME) + wire::end();
    return {
        wire::packet(wire::kOk),
        wire::packet("\0\1\xfc\1\1\x0a\0\0\0\4info"sv),
        wire::packet("\0\0\0\2\x40\0\0\0\x10\0\x0e\x0a"s + "autocommit\2ON"),
        wire::packet("\0\0\0\2\x40\0\0\0\7\1\5\4test"sv),
        wire::packet("\xff\x28\4#42000wrong"sv),
        wire::packet("\xff\xff\xff\1\1\1\0\0\0\0"sv),
        wire::packet(can_much ? "\3\1"sv : "\3"sv) + three,
        wire::packet("\3\0"sv) + wire::end(),
        wire::packet(can_much ? "\1\1"sv : "\1"sv) + column(MYSQL_TYPE_TIME) + wire::end(),
        prepared(can_much),
        wire::packet("\0\1\0\0\0\0\0\0\0\0\0\0"sv),
        wire::packet("\0017\5hello\xfb"sv),
        wire::packet("\1\x31\xfc\5\0hello\0"sv),
        wire::packet("\0\0\7\0\0\0\5hello\4\xe8\7\2\x1d"sv),
        wire::packet("\0\x08\5hello\0"sv),
        wire::packet("\0\0\x0c\0\1\0\0\0\1\2\3\4\5\6\7"sv),
        wire::end(),
        wire::end(10),
        wire::packet("\xfb/etc/passwd"sv),
        wire::packet(wire::greeting(can_much)),
        wire::packet("\xfemysql_native_password\0sssssssssssssssssssss"sv),
        wire::packet("\1\3"sv),
        column(MYSQL_TYPE_BLOB),
        "\xff\xff\xff\0"s,
    };
}

}  // namespace

void run(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return;
    const std::size_t piece = 1 + data[0] % 32;
    const std::string_view input(reinterpret_cast<const char*>(data + 2), size - 2);
    check(read(input, data[1], input.size() + 1) == read(input, data[1], piece));
}

std::string random_input(std::mt19937_64& random, unsigned long round) {
    static const std::array<std::array<std::string, 24>, 2> kCorpora = {corpus(false),
                                                                        corpus(true)};
    const auto how = static_cast<std::uint8_t>(random() % 32);
    const auto& pieces = kCorpora[how >> 2 & 1];
    std::string bytes{static_cast<char>(random()), static_cast<char>(how)};
    for (std::uint64_t count = 1 + random() % 8; count > 0; --count) {
        bytes += pieces[random() % pieces.size()];
    }
    // Every other input stays as it is: a changed byte mostly ends it.
    for (std::uint64_t count = round % 2 * (random() % 4); count > 1; --count) {
        bytes[2 + random() % (bytes.size() - 2)] = static_cast<char>(random());
    }
    return bytes;
}

}  // namespace perilune::fuzz
