#include "world.h"

#include <dirent.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <thread>

namespace perilune::test {

namespace {

using namespace std::chrono_literals;

constexpr double kQuietMs = 100;      // p99 of the players
constexpr double kSaturatedMs = 250;  // the same while the processors have no time left
constexpr double kSaturatedIdle = 0.1;
constexpr int kCloseWait = 8;  // in /proc/net/tcp

std::string read_file(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

// The processors' time so far: all of it, and the part that nobody used.
struct Processors {
    double all = 0;
    double idle = 0;
};

Processors processors() {
    std::istringstream line(read_file("/proc/stat"));
    std::string name;
    line >> name;
    Processors so_far;
    double ticks = 0;
    // user nice system idle iowait irq softirq steal; what follows is in user already.
    for (int field = 0; field < 8 && line >> ticks; ++field) {
        so_far.all += ticks;
        if (field == 3 || field == 4) so_far.idle += ticks;
    }
    return so_far;
}

// The sockets that a process has open, by inode, and how many descriptors in all.
std::set<std::string> sockets_of(int pid, int& descriptors) {
    std::set<std::string> inodes;
    const std::string folder = "/proc/" + std::to_string(pid) + "/fd";
    DIR* const entries = ::opendir(folder.c_str());
    if (entries == nullptr) return inodes;
    while (const dirent* entry = ::readdir(entries)) {
        if (entry->d_name[0] == '.') continue;
        ++descriptors;
        char target[64];
        const ssize_t size =
            ::readlink((folder + "/" + entry->d_name).c_str(), target, sizeof target);
        const std::string text(target, size > 0 ? static_cast<std::size_t>(size) : 0);
        if (text.compare(0, 8, "socket:[") == 0) inodes.insert(text.substr(8, text.size() - 9));
    }
    ::closedir(entries);
    return inodes;
}

int count_close_wait(const std::set<std::string>& inodes) {
    int count = 0;
    for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
        std::ifstream file(table);
        std::string line;
        std::getline(file, line);
        while (std::getline(file, line)) {
            std::istringstream words(line);
            std::string word[10];
            for (std::string& each : word) words >> each;
            const bool waits = std::strtol(word[3].c_str(), nullptr, 16) == kCloseWait;
            count += waits && inodes.count(word[9]) != 0 ? 1 : 0;
        }
    }
    return count;
}

// Of what the players print, all but how they get on.
std::string what_they_found(const std::string& output) {
    return std::regex_replace(output, std::regex(" *[0-9]+ s  [^\n]*\n"), "");
}

double p99_of(const std::string& output, const std::string& what) {
    std::smatch found;
    const std::regex line(what + " ms: .* p99 ([0-9.]+)");
    return std::regex_search(output, found, line) ? std::stod(found[1]) : -1;
}

std::string in_short(double number) {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f", number);
    return text;
}

}  // namespace

bool is_soak() { return std::getenv("PERILUNE_SOAK") != nullptr; }

void SoakTest::start(const Options& options) {
    ::signal(SIGPIPE, SIG_IGN);
    if (node_program().empty()) GTEST_SKIP() << "the program is not built";
    const std::string root = std::filesystem::current_path().string();
    const std::string tls = "{ certificate = \"" + root +
                            "/test/lua/tls/certificate.pem\", key = \"" + root +
                            "/test/lua/tls/key.pem\" }";
    folder_.write("config.lua", R"(
        local tls = )" + tls + R"(
        return {
          paths = { ")" + root + R"(/test/soak/service" },
          log = { stream = "none", file = "node.log", level = "info" },
          services = {
            { script = "dbproxy", options = { database = "sqlite::memory:" } },
            { script = "auth" }, { script = "talkroom" },
            { script = "gateway", options = {
              listen = {
                { port = 0 }, { port = 0, kind = "websocket" },
                { port = 0, tls = tls }, { port = 0, kind = "websocket", tls = tls },
              },
              )" + options.gateway + R"(
            } },
            { script = "framed", options = tls }, { script = "probe" },
          },
        })");
    const std::string limit = options.descriptors == 0
                                  ? std::string()
                                  : "ulimit -n " + std::to_string(options.descriptors) + "; ";
    node_ = std::make_unique<Process>(
        folder_.path(), std::vector<std::string>{"/bin/sh", "-c",
                                                 limit + "exec " + node_program() + " config.lua"});
    std::smatch found;
    std::string log;
    ASSERT_TRUE(eventually([&] {
        log = read_file(folder_ / "node.log");
        return std::regex_search(log, found, std::regex("probe at port ([0-9]+)"));
    })) << log
        << node_->output();
    probe_ = std::make_unique<Peer>(static_cast<std::uint16_t>(std::stoi(found[1])));
    ASSERT_TRUE(probe_->open(Transport::tcp));
    ports_ = numbers();
    ASSERT_EQ(ports_.count("gateway.listeners.4.port"), 1u);
}

SoakTest::~SoakTest() {
    if (node_ == nullptr) return;
    probe_.reset();
    node_->signal(SIGTERM);
    EXPECT_EQ(node_->wait(60'000), 0) << node_->output() << read_file(folder_ / "node.log");
}

void SoakTest::attack(int seconds, const Attack& attack) {
    const int players = scale(10, 200);
    const Residents before = residents();
    const auto at = [&](Transport transport) { return std::to_string(port(transport)); };
    Process bots(
        folder_.path(),
        {node_program(), "bots", "chat", "--count", std::to_string(players), "--port",
         at(Transport::tcp), "--url=ws://127.0.0.1:" + at(Transport::websocket), "--url_share=0.5",
         "--echo_ms=500", "--rate", "0.2", "--seconds", std::to_string(seconds + 3)});
    ASSERT_TRUE(bots.printed(" " + std::to_string(players) + " bots  sent")) << bots.output();
    std::this_thread::sleep_for(1s);
    const Residents during = residents();
    const Processors from = processors();
    const double cpu_from = cpu_seconds();
    const auto began = Clock::now();
    attack(began + std::chrono::seconds(seconds));
    const std::chrono::duration<double> took = Clock::now() - began;
    const Processors to = processors();
    const double idle = (to.idle - from.idle) / (to.all - from.all);
    report_ = "attacked for " + in_short(took.count()) + " s, node " +
              in_short(100 * (cpu_seconds() - cpu_from) / took.count()) + " % CPU, machine " +
              in_short(100 - 100 * idle) + " %";
    EXPECT_TRUE(!is_soak() || took.count() < seconds + 2) << "the players left before it was over";
    check_bystanders(bots, idle < kSaturatedIdle);
    check_residue(before, during);
    std::printf("soak: %s\n", report_.c_str());
}

void SoakTest::check_bystanders(Process& bots, bool saturated) {
    EXPECT_EQ(bots.wait(600'000), 0) << what_they_found(bots.output());
    const double lines = p99_of(bots.output(), "latency");
    const double echoes = p99_of(bots.output(), "echo");
    report_ += "; p99 of a reply " + in_short(echoes) + " ms, of a line " + in_short(lines) + " ms";
    if (!is_soak()) return;
    const double limit = saturated ? kSaturatedMs : kQuietMs;
    EXPECT_LE(echoes, limit);
    EXPECT_LE(lines, limit);
    EXPECT_GT(echoes, 0) << what_they_found(bots.output());
}

void SoakTest::check_residue(const Residents& before, const Residents& during) {
    std::this_thread::sleep_for(std::chrono::seconds(scale(1, 60)));
    const auto is_clean = [&] {
        const Residents now = residents();
        return std::abs(now.descriptors - before.descriptors) <= 5 && now.close_wait == 0;
    };
    // In a soak all has had its time.
    EXPECT_TRUE(is_soak() ? is_clean() : eventually(is_clean));
    const Residents now = residents();
    report_ += "; RSS " + in_short(during.rss_mb) + " -> " + in_short(now.rss_mb) +
               " MB, descriptors " + std::to_string(before.descriptors) + " -> " +
               std::to_string(now.descriptors) + ", CLOSE_WAIT " + std::to_string(now.close_wait);
    EXPECT_LE(now.rss_mb, during.rss_mb * 1.1 + 20);
}

SoakTest::Numbers SoakTest::numbers() {
    Numbers found;
    std::istringstream lines(ask("stats"));
    std::string name, value;
    while (lines >> name >> value) {
        found[name] = value == "true" ? 1 : std::strtod(value.c_str(), nullptr);
    }
    return found;
}

std::string SoakTest::ask(const std::string& line) {
    probe_->in.clear();
    probe_->send(line + "\n");
    EXPECT_TRUE(probe_->wait([&] {
        return probe_->in == "\n" || (probe_->in.size() > 1 && probe_->in.ends_with("\n\n"));
    })) << "the node doesn't answer";
    return probe_->in;
}

std::uint16_t SoakTest::port(Transport transport) {
    const int number = static_cast<int>(transport) + 1;
    return static_cast<std::uint16_t>(
        ports_["gateway.listeners." + std::to_string(number) + ".port"]);
}

std::uint16_t SoakTest::port(const std::string& framed) {
    return static_cast<std::uint16_t>(ports_["framed." + framed]);
}

Residents SoakTest::residents() const {
    Residents found;
    std::istringstream status(read_file("/proc/" + std::to_string(node_->id()) + "/status"));
    std::string word;
    while (status >> word && word != "VmRSS:") {
    }
    status >> found.rss_mb;
    found.rss_mb /= 1024;
    found.close_wait = count_close_wait(sockets_of(node_->id(), found.descriptors));
    return found;
}

double SoakTest::cpu_seconds() const {
    const std::string stat = read_file("/proc/" + std::to_string(node_->id()) + "/stat");
    std::istringstream fields(stat.substr(stat.rfind(')') + 1));
    std::string word;
    for (int field = 3; field < 14; ++field) fields >> word;
    double user = 0, system = 0;
    fields >> user >> system;
    return (user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

}  // namespace perilune::test
