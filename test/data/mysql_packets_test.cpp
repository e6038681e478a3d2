// Tests of MysqlPackets: each valid answer in pieces of every size, and each kind of what
// Connector/C can't take.
#include "data/mysql_packets.h"

#include <gtest/gtest.h>
#include <mariadb/mysql.h>

#include <string>
#include <vector>

#include "mysql_wire.h"

namespace perilune {
namespace {

using Answer = MysqlPackets::Answer;
using namespace std::string_literals;
using namespace std::string_view_literals;
using wire::end;
using wire::packet;

constexpr std::size_t kWhole = 1u << 30;

struct Server {
    bool can_much = true;
    bool offers_tls = false;
    bool prepares = true;
};

std::string column(int type, const Server& server) {
    return packet(wire::definition(type, server.can_much));
}

std::string columns(const std::vector<int>& types, const Server& server) {
    std::string bytes;
    for (const int type : types) bytes += column(type, server);
    return bytes + end();
}

// What is said of `input` as the answer to a command, in pieces of a size: "" where it is complete.
std::string read(Answer answer, const std::string& input, const std::vector<int>& types,
                 std::size_t piece_size, const Server& server) {
    MysqlPackets packets(false);
    MysqlColumns known;
    EXPECT_TRUE(packets.accept(wire::login(server.can_much)) && packets.idle());
    known.assign(types.begin(), types.end());
    packets.expect(answer, &known);
    for (std::size_t at = 0; at < input.size(); at += piece_size) {
        if (!packets.accept(std::string(input.substr(at, piece_size)))) return packets.problem();
    }
    return packets.idle() ? "" : "more";
}

void expect_outcome(Answer answer, const std::string& input, const std::string& outcome,
                    const std::vector<int>& types = {}, const Server& server = {}) {
    for (std::size_t size = 1; size <= input.size() && size < 40; ++size) {
        EXPECT_EQ(read(answer, input, types, size, server), outcome) << "pieces of " << size;
    }
    EXPECT_EQ(read(answer, input, types, kWhole, server), outcome);
}

std::string header(int count, const Server& server) {
    return packet(std::string(1, static_cast<char>(count)) + (server.can_much ? "\1" : ""));
}

const std::vector<int> kTypes = {MYSQL_TYPE_LONG, MYSQL_TYPE_VAR_STRING, MYSQL_TYPE_DATETIME};

// An answer of rows, of the columns kTypes.
std::string rows(const std::string& bytes, const Server& server = {}) {
    return header(3, server) + columns(kTypes, server) + bytes + end();
}

TEST(MysqlPackets, ValidAnswersPassInAnyPieces) {
    for (const bool can_much : {true, false}) {
        const Server server{.can_much = can_much};
        const auto passes = [&](Answer answer, const std::string& input) {
            expect_outcome(answer, input, "", kTypes, server);
        };
        passes(Answer::query, packet(wire::kOk));
        passes(Answer::query, packet("\0\1\xfc\1\1\2\0\0\0\4info"sv));
        passes(Answer::query, packet("\xff\x28\4#42000wrong"sv));
        passes(Answer::query, packet("\xff\xff\xff\1\1\1\0\0\0\0"sv) + packet(wire::kOk));
        passes(Answer::query, rows("", server));
        passes(Answer::query, rows(packet("\0017\5hello\xfb"sv), server));
        passes(Answer::query, rows(packet("\0017\xfc\5\0hello\0"sv), server));
        passes(Answer::query, rows(packet("\0017\xfe\5\0\0\0\0\0\0\0hello\0"sv), server));
        passes(Answer::query,
               header(3, server) + columns(kTypes, server) + packet("\xff\x28\4 no"));
        passes(Answer::execute, rows(packet("\0\0\7\0\0\0\5hello\4\xe8\7\2\x1d"sv) +
                                         packet("\0\x1c"sv) + packet("\0\x08\1\0\0\0\0"sv),
                                     server));
        passes(Answer::prepare, packet("\0\1\0\0\0\0\0\0\0\0\0\0"sv));
        passes(Answer::prepare, packet("\0\1\0\0\0\3\0\1\0\0\0\0"sv) +
                                    columns({MYSQL_TYPE_STRING}, server) + columns(kTypes, server));
        // Several results.
        passes(Answer::query, header(1, server) + columns({MYSQL_TYPE_LONG}, server) +
                                  packet("\0011") + end(10) + packet(wire::kOk));
    }
}

TEST(MysqlPackets, ColumnsThatAreKnownNeedNotBeSent) {
    const std::string row = packet("\0\0\7\0\0\0\5hello\0"sv);
    expect_outcome(Answer::execute, packet("\3\0"sv) + end() + row + end(), "", kTypes);
    const char* problem = "a result without its columns";
    expect_outcome(Answer::execute, packet("\2\0"sv) + end(), problem, kTypes);
    expect_outcome(Answer::query, packet("\3\0"sv) + end(), problem, kTypes);
}

TEST(MysqlPackets, RowsOfEachTypeArePassedByTheirSize) {
    struct Case {
        int type;
        std::string value;
    };
    const std::vector<Case> cases = {
        {MYSQL_TYPE_NULL, ""},
        {MYSQL_TYPE_TINY, "x"},
        {MYSQL_TYPE_SHORT, "xx"},
        {MYSQL_TYPE_YEAR, "xx"},
        {MYSQL_TYPE_INT24, "xxxx"},
        {MYSQL_TYPE_FLOAT, "xxxx"},
        {MYSQL_TYPE_LONGLONG, "12345678"},
        {MYSQL_TYPE_DOUBLE, "12345678"},
        {MYSQL_TYPE_TIME, "\x0c" + std::string(12, 'x')},
        {MYSQL_TYPE_DATE, "\4xxxx"},
        {MYSQL_TYPE_TIMESTAMP, "\x0b" + std::string(11, 'x')},
        {MYSQL_TYPE_NEWDATE, "\1x"},
        {MYSQL_TYPE_BIT, "\1x"},
        {MYSQL_TYPE_JSON, "\2{}"},
        {MYSQL_TYPE_GEOMETRY, "\1x"},
        {MYSQL_TYPE_NEWDECIMAL,
         "\3"
         "1.5"},
    };
    const Server server;
    for (const Case& each : cases) {
        const std::string start = header(1, server) + columns({each.type}, server);
        const std::string row = "\0\0"s + each.value;
        expect_outcome(Answer::execute, start + packet(row) + end(), "");
        if (each.value.empty()) continue;
        expect_outcome(Answer::execute, start + packet(row.substr(0, row.size() - 1)) + end(),
                       "a row that breaks off");
        expect_outcome(Answer::execute, start + packet(row + "x") + end(),
                       "a row that isn't one of its columns");
    }
}

TEST(MysqlPackets, WhatNoServerSendsIsRefused) {
    const Server server;
    const auto refuses = [](Answer answer, const std::string& input, const std::string& problem) {
        expect_outcome(answer, input, problem, kTypes);
    };
    const std::string no_row = "a row that isn't one of its columns";
    refuses(Answer::query, packet(""), "an empty packet");
    refuses(Answer::query, packet("\xfb/etc/passwd"), "a request for a file of ours");
    refuses(Answer::query, packet("\xff\x28\4#42"), "an error that breaks off");
    refuses(Answer::query, packet("\xff\x28"), "an error that breaks off");
    refuses(Answer::query, packet("\xff\xff\xff\1\1"), "a report of progress that is none");
    refuses(Answer::query, packet("\0\0\0\2\0\0"sv), "an OK that breaks off");
    refuses(Answer::query, packet("\0\0\0\2\0\0\0\5info"sv), "an OK that breaks off");
    refuses(Answer::query, packet("\0\xfb\0\2\0\0\0"sv), "an OK that breaks off");
    // The name of a database that has no length, or one that leads out of the changes.
    const std::string changes = "changes of the session that aren't any";
    refuses(Answer::query, packet("\0\0\0\2\x40\0\0\0\4\1\2\xfbx"sv), changes);
    refuses(Answer::query, packet("\0\0\0\2\x40\0\0\0\4\1\2\4x"sv), changes);
    refuses(Answer::query, packet("\0\0\0\2\x40\0\0\0\5\0\3\1x\2"sv), changes);
    for (const std::string_view none :
         {"\xfe\1\0\0\0\1\0\0\0"sv, "\3\2"sv, "\3\1x"sv, "\xfc\1\x10\1"sv, "\xfc\1"sv}) {
        refuses(Answer::query, packet(none), "a result that is none");
    }
    refuses(Answer::prepare, packet("\0\1\0\0\0\0\0\0\0\0\0"sv),
            "a prepared statement that is none");
    refuses(Answer::prepare, packet("\1\1\0\0\0\0\0\0\0\0\0\0"sv),
            "a prepared statement that is none");
    refuses(Answer::prepare, packet("\0\1\0\0\0\1\x10\0\0\0\0\0"sv),
            "a prepared statement that is none");
    refuses(Answer::query, header(1, server) + end(), "a column that is none");
    refuses(Answer::query,
            header(1, server) + column(MYSQL_TYPE_LONG, server) + column(MYSQL_TYPE_LONG, server),
            "an end that is none");
    refuses(Answer::query, rows(packet("\xfe\0\0\2\0\0"sv)), "an end that is none");
    refuses(Answer::query, rows(packet("\xfe"sv)), "an end that is none");
    refuses(Answer::query, rows(packet("\0017\5hello"sv)), "a row that breaks off");
    refuses(Answer::query, rows(packet("\0017\5hello\4x"sv)), "a row that breaks off");
    refuses(Answer::query, rows(packet("\0017\5hello\xff"sv)), no_row);
    refuses(Answer::query, rows(packet("\0017\5hello\xfb\xfb"sv)), no_row);
    refuses(Answer::query, rows(packet("\0017\xfc\5"sv)), "a row that breaks off");
    refuses(Answer::execute, rows(packet("\1\0\7\0\0\0\5hello\0"sv)), no_row);
    refuses(Answer::execute, rows(packet("\0"sv)), "a row that breaks off");
    refuses(Answer::execute, rows(packet("\0\0\7\0\0\0\xfb\0"sv)), no_row);
    refuses(Answer::execute, rows(packet("\0\0\7\0\0\0\5hello\5"sv)), no_row);
    refuses(Answer::execute, header(1, server) + columns({17}, server) + packet("\0\0x"sv), no_row);
    refuses(Answer::query, packet(wire::kOk) + packet(wire::kOk), "a packet that nobody asked for");
}

TEST(MysqlPackets, AColumnHasAllItsNamesAndWhatFollows) {
    const Server server;
    const std::string good = wire::definition(MYSQL_TYPE_LONG, true);
    for (std::size_t at = 1; at < good.size(); ++at) {
        expect_outcome(Answer::query, header(1, server) + packet(good.substr(0, at)),
                       "a column that is none");
    }
    expect_outcome(Answer::query, header(1, server) + packet(good + "x"), "a column that is none");
    for (const std::size_t at : {0, 4, 9, 11, 13, 16, 19}) {  // of each name, its length
        std::string no_name = good;
        no_name[at] = '\xfb';
        expect_outcome(Answer::query, header(1, server) + packet(no_name), "a column that is none");
    }
}

TEST(MysqlPackets, SmallPacketsAndColumnsAreBounded) {
    const Server server;
    const std::string large = "\0\0\0\2\0\0\0\xfd\0\0\2"s + std::string(0x20000, 'x');
    EXPECT_EQ(read(Answer::query, packet(large), {}, 1000, server), "a packet that is too large");
    EXPECT_EQ(read(Answer::query, packet(std::string(0xffffff, '\0')), {}, kWhole, server),
              "a packet that is too large");
    std::string wide = wire::definition(MYSQL_TYPE_LONG, true).substr(4);
    wide = "\xfc\0\xf0"s + std::string(0xf000, 'x') + wide;
    std::string answer = packet("\xfc\x00\x10\1"sv);
    for (std::size_t i = 0; i < MysqlPackets::kMaxDefinitions / wide.size() + 1; ++i) {
        answer += packet(wide);
    }
    EXPECT_EQ(read(Answer::query, answer, {}, kWhole, server), "columns that are too large");
}

TEST(MysqlPackets, ARowMayHaveSeveralParts) {
    const Server server;
    const std::string value(0xffffff - 4, 'x');  // a part is full with the length of it
    const std::string part = packet("\xfd\xfb\xff\xff" + value);
    ASSERT_EQ(part.substr(0, 3), "\xff\xff\xff");
    const std::string start =
        header(2, server) + columns({MYSQL_TYPE_BLOB, MYSQL_TYPE_LONG}, server);
    for (const std::size_t size : {std::size_t{100000}, kWhole}) {
        EXPECT_EQ(read(Answer::query, start + part + packet("\0011") + end(), {}, size, server),
                  "");
        EXPECT_EQ(read(Answer::query, start + part + packet("") + end(), {}, size, server),
                  "a row that breaks off");
    }
    const std::string one = header(1, server) + columns({MYSQL_TYPE_BLOB}, server);
    EXPECT_EQ(read(Answer::query, one + part + packet("") + end(), {}, kWhole, server), "");
}

// What is said of a login.
std::string read_login(const std::string& input, bool tls = false) {
    std::string told;
    for (std::size_t size = 1; size <= input.size(); size += 7) {
        MysqlPackets packets(tls);
        std::string problem;
        for (std::size_t at = 0; at < input.size() && problem.empty(); at += size) {
            if (!packets.accept(std::string(input.substr(at, size)))) problem = packets.problem();
        }
        if (problem.empty()) problem = packets.idle() ? "idle" : "more";
        if (size == 1) told = problem;
        EXPECT_EQ(told, problem) << "pieces of " << size;
    }
    return told;
}

TEST(MysqlPackets, ALoginEndsWithOk) {
    const std::string hello = packet(wire::greeting(true));
    const std::string ok = packet(wire::kOk);
    EXPECT_EQ(read_login(hello), "more");
    EXPECT_EQ(read_login(hello + ok), "idle");
    EXPECT_EQ(read_login(hello + packet("\1\4") +
                         packet("\xfe"
                                "a\0proof"sv) +
                         ok),
              "idle");
    EXPECT_EQ(read_login(hello + packet("\xff\x15\4#28000no")), "more");
    EXPECT_EQ(read_login(packet("\xff\x10\4too many")), "more");
    EXPECT_EQ(read_login(packet("\xff\x10\4too many") + ok), "bytes that nobody asked for");
    EXPECT_EQ(read_login(hello + packet("\xfe"
                                        "a")),
              "a name that doesn't end");
    EXPECT_EQ(read_login(hello + ok + ok), "a packet that nobody asked for");
    EXPECT_EQ(read_login(packet(wire::greeting(true).substr(0, 60))), "a greeting that is none");
    EXPECT_EQ(read_login(packet("\x09" + wire::greeting(true).substr(1))),
              "a greeting that is none");
    EXPECT_EQ(read_login("HTTP/1.1 400 Bad Request\r\n"s + std::string(70000, 'x')),
              "a packet that is too large");
}

TEST(MysqlPackets, NothingFollowsAGreetingInTheClearWhereThereIsTls) {
    std::string tls = wire::greeting(true);
    tls[tls.find('\0') + 15] |= '\x08';
    EXPECT_EQ(read_login(packet(tls), true), "more");
    EXPECT_EQ(read_login(packet(tls) + packet(wire::kOk), true), "bytes that nobody asked for");
    EXPECT_EQ(read_login(packet(tls) + packet(wire::kOk)), "idle");
}

TEST(MysqlPackets, AServerMaySayGoodbyeOnce) {
    MysqlPackets packets(false);
    const std::string goodbye = packet("\xff\x87\7#HY000idle");
    ASSERT_TRUE(packets.accept(wire::login(true)) && packets.accept(goodbye));
    packets.expect(Answer::query);
    EXPECT_FALSE(packets.accept(packet(wire::kOk)));
    EXPECT_STREQ(packets.problem(), "bytes that nobody asked for");
}

}  // namespace
}  // namespace perilune
