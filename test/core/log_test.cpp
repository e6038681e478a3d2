#include "core/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

namespace perilune {
namespace {

// What blocks does so for ever here: a busy machine may hold a writer up for less.
constexpr std::int64_t kMaxWriteNs = 1 * kNsPerSecond;

std::int64_t now() { return RealClock::monotonic(); }

// A folder that goes with the test.
class LogTest : public testing::Test {
  protected:
    LogTest() {
        char name[] = "/tmp/perilune_log_XXXXXX";
        folder_ = mkdtemp(name);
    }
    ~LogTest() override { std::filesystem::remove_all(folder_); }

    std::string path(const char* name = "node.log") const { return folder_ + "/" + name; }
    std::string read(const char* name = "node.log") const {
        std::ifstream file(path(name), std::ios::binary);
        return {std::istreambuf_iterator<char>(file), {}};
    }
    std::unique_ptr<Log> open(LogOptions options) {
        if (options.descriptor == 2) options.descriptor = -1;
        Result<std::unique_ptr<Log>> log = Log::open(options, &clock_);
        EXPECT_TRUE(log.ok()) << log.status().message();
        return std::move(log.value());
    }
    std::unique_ptr<Log> open_file() { return open({.level = LogLevel::trace, .file = path()}); }

    // What the file has after one message.
    std::string line_of(std::string_view message, LogText text = LogText::line,
                        LogFormat format = LogFormat::text) {
        std::filesystem::remove(path());
        const auto log = open({.format = format, .file = path()});
        log->write(LogLevel::info, "test", message, text);
        EXPECT_TRUE(log->flush());
        return read();
    }
    std::string text_of(std::string_view message) {
        const std::string line = line_of(message);
        return line.substr(line.find("test: ") + 6, line.size() - line.find("test: ") - 7);
    }

    std::string folder_;
    VirtualClock clock_;
};

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
}

// Whether `text` is one JSON value by RFC 8259; fills nothing, checks the grammar and UTF-8.
class JsonChecker {
  public:
    static bool accepts(std::string_view text) {
        JsonChecker checker{text};
        return checker.value() && checker.rest_.empty();
    }

  private:
    explicit JsonChecker(std::string_view text) : rest_(text) {}
    bool take(char c) {
        if (rest_.empty() || rest_[0] != c) return false;
        rest_.remove_prefix(1);
        return true;
    }
    bool string() {
        if (!take('"')) return false;
        while (!rest_.empty() && rest_[0] != '"') {
            const auto c = static_cast<unsigned char>(rest_[0]);
            if (c < 0x20) return false;
            rest_.remove_prefix(1);
            if (c == '\\') {
                if (rest_.empty()) return false;
                const char escape = rest_[0];
                rest_.remove_prefix(1);
                if (escape == 'u') {
                    for (int i = 0; i < 4; ++i) {
                        if (rest_.empty() || !isxdigit(rest_[0])) return false;
                        rest_.remove_prefix(1);
                    }
                } else if (std::string_view("\"\\/bfnrt").find(escape) == std::string_view::npos) {
                    return false;
                }
            } else if (c >= 0x80) {
                const int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc2 ? 1 : -1;
                if (more < 0) return false;
                for (int i = 0; i < more; ++i) {
                    if (rest_.empty() || (rest_[0] & 0xc0) != 0x80) return false;
                    rest_.remove_prefix(1);
                }
            }
        }
        return take('"');
    }
    bool value() {
        if (!take('{')) return string();
        if (take('}')) return true;
        do {
            if (!string() || !take(':') || !value()) return false;
        } while (take(','));
        return take('}');
    }
    std::string_view rest_;
};

// --- what a line looks like ---

TEST_F(LogTest, ATextLineHasTimeLevelServiceAndMessage) {
    setenv("TZ", "UTC", 1);
    tzset();
    clock_.advance_to(3'661'042 * kNsPerMs);
    EXPECT_EQ(line_of("hello, world"), "2024-01-01 01:01:01.042 info  test: hello, world\n");
}

TEST_F(LogTest, AJsonLineHasTheSameAndIsJson) {
    clock_.advance_to(3'661'042 * kNsPerMs);
    EXPECT_EQ(line_of("a \"b\" \\ c\td", LogText::line, LogFormat::json),
              "{\"time\":\"2024-01-01T01:01:01.042Z\",\"level\":\"info\",\"service\":\"test\","
              "\"message\":\"a \\\"b\\\" \\\\ c\\u0009d\"}\n");
}

TEST_F(LogTest, FieldsFollowTheMessageInBothFormats) {
    auto log = open_file();
    log->write(LogLevel::warn, "test", "moved",
               {{"uid", "42"}, {"place", "old town"}, {"auth_token", "abc"}, {"empty", ""}});
    ASSERT_TRUE(log->flush());
    EXPECT_TRUE(
        read().ends_with("test: moved uid=42 place=\"old town\" auth_token=*** empty=\"\"\n"))
        << read();
    log = open({.format = LogFormat::json, .file = path("json.log")});
    log->write(LogLevel::warn, "test", "moved",
               {{"uid", "42"}, {"password", "x"}, {"a\n", "\xff"}});
    ASSERT_TRUE(log->flush());
    const std::string line = read("json.log");
    EXPECT_TRUE(
        line.ends_with("\"message\":\"moved\",\"fields\":{\"uid\":\"42\",\"password\":"
                       "\"***\",\"a\\n\":\"\\ufffd\"}}\n"))
        << line;
    EXPECT_TRUE(JsonChecker::accepts(lines_of(line).at(0)));
}

TEST_F(LogTest, ThePrintfHelpersFormatAtTheirLevel) {
    auto log = open_file();
    log->trace("a", "%d", 1);
    log->debug("b", "%s", "two");
    log->info("c", "%5.2f", 3.0);
    log->warn("d", "no argument");
    log->error("e", "%zu%%", std::size_t{5});
    ASSERT_TRUE(log->flush());
    std::string all;
    for (const std::string& line : lines_of(read())) all += line.substr(24) + "|";
    EXPECT_EQ(all, "trace a: 1|debug b: two|info  c:  3.00|warn  d: no argument|error e: 5%|");
}

TEST_F(LogTest, AMessageIsCutAt4KilobytesWithoutCuttingACharacter) {
    const std::string line = text_of(std::string(4095, 'x') + "\xea\xb0\x80" + "tail");
    EXPECT_EQ(line, std::string(4095, 'x') + "... (cut)");
    EXPECT_EQ(text_of(std::string(4096, 'y')), std::string(4096, 'y'));
    EXPECT_EQ(text_of(std::string(1'000'000, 'z')).size(), 4096 + 9u);
    EXPECT_EQ(text_of(std::string(10'000, '\x80')).size(), 4 * 4092 + 9u);  // looks like a tail
    const auto log = open_file();
    log->info("test", "%s", std::string(9000, 'p').c_str());
    EXPECT_TRUE(log->flush());
    EXPECT_NE(read().find("pp... (cut)\n"), std::string::npos);
}

TEST_F(LogTest, HugeFieldsAndNamesAreCutToo) {
    const auto log = open({.format = LogFormat::json, .file = path()});
    const std::string huge(100'000, 'x');
    log->write(LogLevel::info, huge, "m", {{"a", "1"}, {"b", huge}, {"c", "3"}});
    ASSERT_TRUE(log->flush());
    EXPECT_LT(read().size(), 400u);
    EXPECT_NE(read().find("\"a\":\"1\",\"fields_cut\":\"2\""), std::string::npos) << read();
}

// --- what clients may not do ---

TEST_F(LogTest, ControlCharactersAreEscaped) {
    EXPECT_EQ(text_of("a\nb\rc\x1b[31md\x07"), "a\\nb\\rc\\x1b[31md\\x07");
    EXPECT_EQ(text_of(std::string_view("nul\0!", 5)), "nul\\x00!");
    EXPECT_EQ(text_of("tab\tstays"), "tab\tstays");
    EXPECT_EQ(text_of("\x7f"), "\\x7f");
    EXPECT_EQ(text_of("\xc2\x9b"
                      "31m"),
              "\\u009b31m");                                             // the one-byte CSI
    EXPECT_EQ(text_of("\xe2\x80\xa8|\xe2\x80\xae"), "\\u2028|\\u202e");  // line end, override
}

TEST_F(LogTest, Utf8StaysAndEverythingElseIsEscaped) {
    const std::string text = "한국어 日本語 ñ ü 😀";
    EXPECT_EQ(text_of(text), text);
    EXPECT_EQ(text_of("\xff\xfe"), "\\xff\\xfe");
    EXPECT_EQ(text_of("\xc0\xaf"), "\\xc0\\xaf");                    // overlong
    EXPECT_EQ(text_of("\xed\xa0\x80"), "\\xed\\xa0\\x80");           // a surrogate
    EXPECT_EQ(text_of("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");  // beyond U+10FFFF
    EXPECT_EQ(text_of("cut \xe2\x82"), "cut \\xe2\\x82");
}

TEST_F(LogTest, ATracebackKeepsItsLinesButCannotLookLikeARecord) {
    const std::string text =
        "boom\n\tcore.lua:1\n2024-01-01 00:00:00.000 info  x: forged\r\x1b[2J\n";
    const std::vector<std::string> lines = lines_of(line_of(text, LogText::lines));
    ASSERT_EQ(lines.size(), 3u);
    EXPECT_TRUE(lines[0].ends_with("test: boom"));
    EXPECT_EQ(lines[1], "    \tcore.lua:1");
    EXPECT_EQ(lines[2], "    2024-01-01 00:00:00.000 info  x: forged\\r\\x1b[2J");
}

TEST_F(LogTest, JsonIsValidWhateverTheBytesAre) {
    const auto log = open({.format = LogFormat::json, .file = path()});
    std::uint64_t state = 1;
    for (int i = 0; i < 2'000; ++i) {
        std::string text;
        for (int j = 0; j < i % 40; ++j) {
            state = state * 6364136223846793005ull + 1442695040888963407ull;
            static constexpr std::string_view kPicks = "\"\\\n\r\t\x1b{}:=\xc3\xa9\xe2\x80\xff\xf0";
            const std::uint64_t pick = state >> 40;
            text += pick % 3 == 0 ? kPicks[pick % kPicks.size()] : static_cast<char>(state >> 33);
        }
        log->write(LogLevel::info, text, text, {{text, text}});
        if (i % 500 == 0) {
            ASSERT_TRUE(log->flush());
        }
    }
    ASSERT_TRUE(log->flush());
    const std::vector<std::string> lines = lines_of(read());
    EXPECT_EQ(lines.size(), 2'000u);
    for (const std::string& line : lines) ASSERT_TRUE(JsonChecker::accepts(line)) << line;
}

TEST_F(LogTest, SecretsAreReplaced) {
    const std::array<std::array<const char*, 2>, 33> cases{{
        {"login password=hunter2 uid=5", "login password=*** uid=5"},
        {"password = hunter2", "password = ***"},
        {"PASSWORD=hunter2", "PASSWORD=***"},
        {"DB_PASSWORD=a;b", "DB_PASSWORD=***;b"},
        {"resume_token=0123456789abcdef,x", "resume_token=***,x"},
        {"client-secret: abc", "client-secret: ***"},
        {"passwd='with spaces in it' z", "passwd='***' z"},
        {"{\"password\":\"a\\\"b\",\"uid\":1}", "{\"password\":\"***\",\"uid\":1}"},
        {"{\\\"token\\\":\\\"abc\\\",\\\"x\\\":1}", "{\\\"token\\\":\\\"***\\\",\\\"x\\\":1}"},
        {"{[\"token\"] = \"abc\"}", "{[\"token\"] = \"***\"}"},
        {"GET /?token=abc&name=bob HTTP/1.1", "GET /?token=***&name=bob HTTP/1.1"},
        {"Authorization: Bearer abc def", "Authorization: ***"},
        {"authorization=Basic xyz==", "authorization=***"},
        {"\"Authorization\": \"Basic xyz\", \"a\": 1", "\"Authorization\": \"***\", \"a\": 1"},
        {"api_key=1 apikey=2 api-key=3", "api_key=*** apikey=*** api-key=***"},
        {"password=", "password="},
        {"password=\"\"", "password=\"\""},
        {"password=\"unclosed", "password=\"***"},
        {"password=\"ends in \\", "password=\"***"},
        {"if token == nil then", "if token == nil then"},
        {"token ~= nil", "token ~= nil"},
        {"secret::name", "secret::name"},
        {"tokens=5 passwords: 3", "tokens=5 passwords: 3"},
        {"the password is wrong", "the password is wrong"},
        {"mysql://root:hunter2@db:3306/game", "mysql://root:***@db:3306/game"},
        {"redis://:p@ss@cache:6379", "redis://:***@cache:6379"},
        {"to https://u:p@h/x and http://a:b@c.", "to https://u:***@h/x and http://a:***@c."},
        {"mysql://root:sl/ash@db/game", "mysql://root:***@db/game"},
        {"http://host:80/a@b", "http://host:80/a@b"},
        {"http://host/a:b@c", "http://host/a:b@c"},
        {"at 10:20:30 a=b", "at 10:20:30 a=b"},
        {"password=a password=b token:c", "password=*** password=*** token:***"},
        {"password=a:b@c=d", "password=***"},
    }};
    for (const auto& [text, expected] : cases) EXPECT_EQ(Log::clean(text), expected) << text;
}

TEST_F(LogTest, RedactionTakesLinearTimeOnHostileText) {
    const std::int64_t begin = now();
    for (const char* piece : {"=", ":", "://", " =", "token", "token=", "\"", "\\\"", "a:", "@",
                              "://a:b@", "://a:b", "password=\"", "    ="}) {
        std::string text;
        while (text.size() < 100'000) text += piece;
        Log::clean(text);
    }
    EXPECT_LT(now() - begin, 5 * kNsPerSecond);
}

// --- levels ---

TEST_F(LogTest, ServicesHaveLevelsOfTheirOwnThatChangeAtRunTime) {
    const auto log = open({.level = LogLevel::warn,
                           .levels = {{"chatty", LogLevel::error}, {"odd", LogLevel::debug}},
                           .file = path()});
    EXPECT_TRUE(log->enabled(LogLevel::debug));  // somebody may want it
    EXPECT_FALSE(log->enabled(LogLevel::trace));
    EXPECT_TRUE(log->enabled(LogLevel::debug, "odd"));
    EXPECT_FALSE(log->enabled(LogLevel::debug, "other"));
    EXPECT_FALSE(log->enabled(LogLevel::warn, "chatty"));
    EXPECT_TRUE(log->enabled(LogLevel::warn, "other"));
    log->clear_level("odd");
    EXPECT_FALSE(log->enabled(LogLevel::info));
    log->set_level(LogLevel::info);
    EXPECT_TRUE(log->enabled(LogLevel::info, "odd"));
    log->set_level("other", LogLevel::off);
    EXPECT_FALSE(log->enabled(LogLevel::error, "other"));
    EXPECT_FALSE(log->enabled(LogLevel::off, "odd"));
    log->write(LogLevel::error, "other", "unseen");
    log->write(LogLevel::warn, "chatty", "unseen");
    log->write(LogLevel::info, "odd", "seen");
    ASSERT_TRUE(log->flush());
    EXPECT_EQ(lines_of(read()).size(), 1u);
    EXPECT_EQ(log->level("chatty"), LogLevel::error);
    for (const char* name : {"trace", "debug", "info", "warn", "error", "off"}) {
        EXPECT_STREQ(log_level_name(*parse_log_level(name)), name);
    }
    EXPECT_FALSE(parse_log_level("loud"));
}

TEST_F(LogTest, ARateLimitLetsOneASecondPassAndCountsTheOthers) {
    const auto log = open_file();
    RateLimit limit;
    clock_.advance_to(5 * kNsPerSecond);
    for (int i = 0; i < 1'000; ++i) {
        log->limited(limit, LogLevel::warn, "test", "round %d", i);
        clock_.advance_by(10 * kNsPerMs);
    }
    ASSERT_TRUE(log->flush());
    const std::vector<std::string> lines = lines_of(read());
    ASSERT_EQ(lines.size(), 10u);
    EXPECT_TRUE(lines[0].ends_with("test: round 0"));
    EXPECT_TRUE(lines[9].ends_with("test: round 900 (and 99 more held back)"));
}

// --- sinks ---

TEST_F(LogTest, FilesRotateBySizeAndOnlySoManyStay) {
    const auto log = open({.file = path(), .file_bytes = 1000, .files = 2});
    for (int i = 0; i < 100; ++i) {
        log->write(LogLevel::info, "test", "number " + std::to_string(i) + std::string(50, '.'));
    }
    ASSERT_TRUE(log->flush());
    EXPECT_EQ(log->counters().written, 100u);
    int files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
        ++files;
        EXPECT_LE(entry.file_size(), 1000u);
    }
    EXPECT_EQ(files, 3);
    EXPECT_NE(read().find("number 99."), std::string::npos);
    EXPECT_NE(read("node.1.log").find("number "), std::string::npos);
    const std::string tail = read("node.2.log") + read("node.1.log") + read();
    const std::vector<std::string> lines = lines_of(tail);
    for (std::size_t i = 0; i < lines.size(); ++i) {  // the last ones, without a gap
        const std::string number = std::to_string(100 - lines.size() + i);
        EXPECT_NE(lines[i].find("number " + number + "."), std::string::npos);
    }
}

TEST_F(LogTest, AFileThatExistsIsContinued) {
    for (int i = 0; i < 2; ++i) {
        const auto log = open({.file = path()});
        log->info("test", "start %d", i);
    }
    EXPECT_EQ(lines_of(read("node.log")).size(), 2u);
}

TEST_F(LogTest, TheFolderOfAFileHasToExist) {
    const auto log = Log::open({.descriptor = -1, .file = path("a/node.log")});
    EXPECT_EQ(log.status().code(), StatusCode::invalid);
    EXPECT_FALSE(std::filesystem::exists(path("a")));
}

TEST_F(LogTest, AFileThatCannotBeOpenedIsAnError) {
    const auto log = Log::open({.descriptor = -1, .file = "/proc/no/such.log"});
    ASSERT_FALSE(log.ok());
    EXPECT_EQ(log.status().code(), StatusCode::invalid);
    EXPECT_NE(std::string(log.status().message()).find("/proc/no/such.log"), std::string::npos);
}

TEST_F(LogTest, ARotationThatFailsLosesNothing) {
    std::filesystem::create_directory(path("node.1.log"));  // can't be replaced by a file
    std::ofstream(path("node.1.log/in_the_way")) << "x";
    const auto log = open({.file = path(), .file_bytes = 500, .files = 1});
    for (int i = 0; i < 100; ++i) log->info("test", "number %d", i);
    ASSERT_TRUE(log->flush());
    EXPECT_EQ(lines_of(read()).size(), 100u);
    EXPECT_EQ(log->counters().written, 100u);
}

TEST_F(LogTest, AFullDiskIsCountedAndBlocksNobody) {
    const auto log = open({.file = "/dev/full", .file_bytes = 300, .queue = 20'000});
    for (int i = 0; i < 10'000; ++i) log->info("test", "number %d", i);
    ASSERT_TRUE(log->flush(20 * kNsPerSecond));
    EXPECT_EQ(log->counters().failed, 10'000u);
    EXPECT_EQ(log->counters().written, 0u);
    EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));  // not renamed
}

TEST_F(LogTest, AFullStreamIsCountedWhileTheFileGoesOn) {
    const int full = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
    {
        const auto log = open({.descriptor = full, .file = path()});
        for (int i = 0; i < 100; ++i) log->info("test", "number %d", i);
        ASSERT_TRUE(log->flush());
        EXPECT_EQ(log->counters().failed, 100u);
        EXPECT_EQ(lines_of(read()).size(), 100u);
    }
    close(full);
}

// Writes more than fits anywhere and checks that nobody is held up, whatever `log` writes to.
void flood(Log& log, std::size_t queue) {
    std::int64_t slowest = 0;
    const std::string text(1000, 'x');
    for (int i = 0; i < 5'000; ++i) {
        const std::int64_t begin = now();
        log.write(LogLevel::info, "test", text);
        slowest = std::max(slowest, now() - begin);
    }
    EXPECT_LT(slowest, kMaxWriteNs);
    const Log::Counters counters = log.counters();
    EXPECT_GE(counters.dropped, 5'000 - queue - 200);
    EXPECT_LE(counters.dropped, 5'000u);
}

TEST_F(LogTest, APipeThatNobodyReadsDropsCountsAndHoldsUpNeitherWritersNorTheEnd) {
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
    auto log = open({.descriptor = ends[1], .queue = 100, .stop_limit_ns = kNsPerSecond});
    flood(*log, 100);
    EXPECT_FALSE(log->flush(50 * kNsPerMs));
    const std::int64_t begin = now();
    log.reset();
    EXPECT_GT(now() - begin, 900 * kNsPerMs);
    EXPECT_LT(now() - begin, 2 * kNsPerSecond);
    close(ends[0]);
    close(ends[1]);
}

TEST_F(LogTest, ASocketThatNobodyReadsIsNoWorseThanAPipe) {
    std::array<int, 2> ends{};
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    auto log = open({.descriptor = ends[1], .queue = 100, .stop_limit_ns = 100 * kNsPerMs});
    flood(*log, 100);
    const std::int64_t begin = now();
    log.reset();
    EXPECT_LT(now() - begin, kNsPerSecond);
    close(ends[0]);
    close(ends[1]);
}

TEST_F(LogTest, ATerminalThatNobodyReadsKeepsAThreadButNotTheNode) {
    int outer;
    int inner;
    ASSERT_EQ(openpty(&outer, &inner, nullptr, nullptr, nullptr), 0);
    auto log = open({.descriptor = inner, .queue = 100, .stop_limit_ns = 100 * kNsPerMs});
    flood(*log, 100);
    const std::int64_t begin = now();
    log.reset();
    EXPECT_LT(now() - begin, 2 * kNsPerSecond);
    close(outer);  // the write fails now; `inner` stays open, as the thread may still use it
}

TEST_F(LogTest, AReaderThatComesLateGetsWholeLines) {
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
    auto log = open({.descriptor = ends[1], .queue = 10'000});
    for (int i = 0; i < 5'000; ++i)
        log->info("test", "number %d%s", i, std::string(90, '.').c_str());
    std::string text;
    std::thread reader([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        char buffer[5000];
        for (ssize_t size; (size = ::read(ends[0], buffer, sizeof buffer)) > 0;) {
            text.append(buffer, static_cast<std::size_t>(size));
        }
    });
    log.reset();
    close(ends[1]);
    reader.join();
    close(ends[0]);
    const std::vector<std::string> lines = lines_of(text);
    ASSERT_EQ(lines.size(), 5'000u);
    for (std::size_t i = 0; i < lines.size(); ++i) {
        ASSERT_NE(lines[i].find("number " + std::to_string(i) + "."), std::string::npos);
    }
}

TEST_F(LogTest, ADeadPipeIsCountedAndNoSignalEndsTheProcess) {
    const auto before = signal(SIGPIPE, SIG_DFL);  // the worst a host can have
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
    close(ends[0]);
    {
        const auto log = open({.descriptor = ends[1]});
        for (int i = 0; i < 100; ++i) log->info("test", "number %d", i);
        ASSERT_TRUE(log->flush());
        EXPECT_EQ(log->counters().failed, 100u);
    }
    close(ends[1]);
    signal(SIGPIPE, before);
}

TEST_F(LogTest, ADescriptorThatIsClosedIsCounted) {
    const int fd = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
    const auto log = open({.descriptor = fd});
    close(fd);
    log->info("test", "nobody hears");
    EXPECT_TRUE(log->flush());
    EXPECT_EQ(log->counters().failed, 1u);
}

TEST_F(LogTest, ATerminalGetsColoursAndAPipeDoesNot) {
    unsetenv("NO_COLOR");
    int outer;
    int inner;
    ASSERT_EQ(openpty(&outer, &inner, nullptr, nullptr, nullptr), 0);
    {
        const auto log = open({.descriptor = inner, .file = path()});
        log->error("test", "red");
        ASSERT_TRUE(log->flush());
    }
    char buffer[500] = {};
    ASSERT_GT(::read(outer, buffer, sizeof buffer - 1), 0);
    EXPECT_NE(std::string(buffer).find("\x1b[31merror\x1b[0m test: red"), std::string::npos);
    EXPECT_EQ(read().find('\x1b'), std::string::npos);
    close(outer);
    close(inner);
}

// --- several at once ---

TEST_F(LogTest, LogsOfOneProcessDoNotMix) {
    std::vector<std::unique_ptr<Log>> logs;
    for (int i = 0; i < 5; ++i) {
        logs.push_back(open({.file = path(("node" + std::to_string(i) + ".log").c_str())}));
    }
    for (std::size_t i = 0; i < logs.size(); ++i) logs[i]->info("test", "I am %zu", i);
    logs.clear();
    for (int i = 0; i < 5; ++i) {
        const auto lines = lines_of(read(("node" + std::to_string(i) + ".log").c_str()));
        ASSERT_EQ(lines.size(), 1u);
        EXPECT_TRUE(lines[0].ends_with("I am " + std::to_string(i)));
    }
}

TEST_F(LogTest, ThreadsThatWriteTogetherKeepTheirOrderAndEachRecordIsWrittenOrDropped) {
    constexpr int kThreads = 4;
    constexpr int kEach = 5'000;
    std::uint64_t dropped = 0;
    {
        const auto log = open({.file = path(), .queue = 1000});
        std::vector<std::thread> threads;
        for (int part = 0; part < kThreads; ++part) {
            threads.emplace_back([&log, part] {
                for (int i = 0; i < kEach; ++i) log->info("test", "%d %d", part, i);
            });
        }
        for (int i = 0; i < 100; ++i) {
            log->set_level("other", i % 2 == 0 ? LogLevel::trace : LogLevel::off);
            log->counters();
        }
        for (std::thread& thread : threads) thread.join();
        ASSERT_TRUE(log->flush(10 * kNsPerSecond));
        const Log::Counters counters = log->counters();
        dropped = counters.dropped;
        EXPECT_EQ(counters.written + counters.dropped, std::uint64_t{kThreads * kEach});
    }
    std::array<int, kThreads> last;
    last.fill(-1);
    const std::vector<std::string> lines = lines_of(read());
    EXPECT_EQ(lines.size() + dropped, std::size_t{kThreads * kEach});
    for (const std::string& line : lines) {
        int part = 0;
        int number = 0;
        ASSERT_EQ(std::sscanf(line.c_str() + line.find("test: "), "test: %d %d", &part, &number),
                  2);
        ASSERT_GT(number, last.at(static_cast<std::size_t>(part)));
        last.at(static_cast<std::size_t>(part)) = number;
    }
}

TEST_F(LogTest, ALogWithoutSinksIsFine) {
    const auto log = open({.descriptor = -1});
    for (int i = 0; i < 100; ++i) log->info("test", "%d", i);
    EXPECT_TRUE(log->flush());
    EXPECT_EQ(log->counters().written, 100u);
}

}  // namespace
}  // namespace perilune
