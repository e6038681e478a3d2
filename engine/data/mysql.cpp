#include "data/mysql.h"

#include <mariadb/mysqld_error.h>
#include <sys/epoll.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "data/mysql_connection.h"
#include "data/row_batch.h"

namespace perilune {

namespace {

void count(std::atomic<std::uint64_t>& counter) { counter.fetch_add(1, std::memory_order_relaxed); }

BlockingPoolOptions connecting_options() {
    BlockingPoolOptions options;
    options.threads = Mysql::kConnectThreads;
    options.queue = Mysql::kMaxConnections;
    return options;
}

BlockingPoolOptions stop_options() {
    BlockingPoolOptions options;
    options.threads = 1;
    options.queue = Mysql::kMaxStops;
    return options;
}

class RowCounter final : public NoRows {
  public:
    void begin_row() override { ++rows; }
    int rows = 0;
};

// On a thread that may block. `affected` of the answer is 1 if it was still there.
SqlResult kill_statement(const MysqlSession& session, const MysqlOptions& options,
                         MysqlAttempt& attempt) {
    MysqlConnection connection(options);
    SqlResult result = connection.connect(options, attempt);
    if (!result.ok()) return result;
    const std::string number = std::to_string(session.id);
    const std::string look =
        "SELECT 1 FROM information_schema.processlist WHERE command <> 'Killed' AND id = " +
        number + " AND host LIKE '%:" + std::to_string(session.port) + "'";
    RowCounter found;
    result = connection.run(look, found, attempt);
    if (!result.ok() || found.rows == 0) return result;  // it has ended, or is somebody else's
    result = connection.run("KILL " + number, found, attempt);
    if (result.native == ER_NO_SUCH_THREAD) return {};
    result.affected = 1;
    return result;
}

}  // namespace

Mysql::Mysql(Kernel& kernel)
    : kernel_(kernel),
      connecting_(connecting_options()),
      stops_(stop_options()),
      set_(kernel.poller()) {}

Mysql::~Mysql() {
    (void)stop(kNoDeadline);
    set_.stop();
}

Status Mysql::start() {
    if (kernel_.seeded()) return {};
    return set_.start([this](std::uint64_t id, std::uint32_t events) { on_ready(id, events); });
}

bool Mysql::stop(std::int64_t deadline_ns) {
    std::vector<std::shared_ptr<MysqlAttempt>> attempts;
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
        for (const auto& [id, entry] : entries_) {
            if (entry.attempt != nullptr) attempts.push_back(entry.attempt);
        }
        if (stop_attempt_ != nullptr) attempts.push_back(stop_attempt_);
    }
    for (const auto& attempt : attempts) attempt->abort();
    const bool connected = connecting_.stop(deadline_ns);
    return stops_.stop(deadline_ns) && connected;
}

// ---- connecting ----

std::uint64_t Mysql::reserve() {
    const std::lock_guard lock(mutex_);
    return next_id_++;
}

Status Mysql::connect(std::uint64_t id, Handle owner, const MysqlOptions& options,
                      std::uint64_t session) {
    if (kernel_.seeded()) {
        return Status::error(StatusCode::unsupported,
                             "a seeded node has no MySQL: what a server does can't be repeated");
    }
    const auto attempt = std::make_shared<MysqlAttempt>(options.connect_ms);
    const auto shared = std::make_shared<const MysqlOptions>(options);
    {
        const std::lock_guard lock(mutex_);
        if (stopping_) return Status::error(StatusCode::unavailable, "the node is stopping");
        if (entries_.size() >= kMaxConnections) {
            count(counters_.mysql_refused);
            return Status::error(StatusCode::overloaded,
                                 "the node has %zu connections to MySQL, which is the limit",
                                 kMaxConnections);
        }
        Entry& entry = entries_[id];
        entry.owner = owner;
        entry.session = session;
        entry.attempt = attempt;
        entry.options = shared;
    }
    count(counters_.mysql_connections);
    const bool accepted = connecting_.submit(
        [this, id, shared, attempt] { make(id, shared, *attempt); },
        [this, id] {
            give_up(id, SqlResult::failure(SqlCode::unavailable, "the node is stopping"));
        });
    if (accepted) return {};
    count(counters_.mysql_refused);
    close(id, owner);
    return Status::error(StatusCode::overloaded, "too many connections to MySQL are being made");
}

// On a thread that may block.
void Mysql::make(std::uint64_t id, const Options& options, MysqlAttempt& attempt) {
    auto connection = std::make_unique<MysqlConnection>(*options);
    const SqlResult made = connection->connect(*options, attempt);
    if (connection->malformed()) count(counters_.mysql_malformed);
    if (!made.ok()) return give_up(id, made);
    const int descriptor = connection->descriptor();
    Handle owner;
    std::uint64_t session = 0;
    int watched = 0;
    {
        const std::lock_guard lock(mutex_);
        const auto found = entries_.find(id);
        if (found == entries_.end()) return;  // nobody waits for it any more
        Entry& entry = found->second;
        entry.attempt.reset();
        watched = set_.add(descriptor, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, id);
        if (watched == 0) {
            entry.connection = std::move(connection);
            owner = entry.owner;
            session = std::exchange(entry.session, 0);
        }
    }
    if (watched != 0) {
        return give_up(id, SqlResult::failure(SqlCode::unavailable, "can't watch the socket"));
    }
    count(counters_.mysql_connected);
    tell(DatabaseEvent::mysql_connected, id, owner, session);
}

void Mysql::give_up(std::uint64_t id, const SqlResult& why) {
    Handle owner;
    std::uint64_t session = 0;
    {
        const std::lock_guard lock(mutex_);
        const auto found = entries_.find(id);
        if (found == entries_.end()) return;
        owner = found->second.owner;
        session = found->second.session;
        entries_.erase(found);
    }
    counters_.mysql_connections.fetch_sub(1, std::memory_order_relaxed);
    count(counters_.mysql_connect_failed);
    tell(DatabaseEvent::mysql_failed, id, owner, session, &why);
}

void Mysql::tell(DatabaseEvent event, std::uint64_t id, Handle owner, std::uint64_t session,
                 const SqlResult* result) {
    MessagePtr message = make_message(MessageKind::database, owner, {}, session);
    message->detail = static_cast<std::uint8_t>(event);
    message->id = id;
    if (result != nullptr) {
        RowWriter out;
        out.result(*result);
        message->set_payload(out.take());
    }
    (void)kernel_.post(message);  // an owner that has died needs no word
}

// ---- what they wait for ----

// The polling thread.
void Mysql::on_ready(std::uint64_t id, std::uint32_t events) {
    std::uint32_t ready = 0;
    const bool over = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    if (over || (events & EPOLLIN) != 0) ready |= MysqlConnection::kRead;
    if (over || (events & EPOLLOUT) != 0) ready |= MysqlConnection::kWrite;
    Handle owner;
    std::uint64_t session = 0;
    DatabaseEvent event = DatabaseEvent::mysql_ready;
    {
        const std::lock_guard lock(mutex_);
        const auto found = entries_.find(id);
        if (found == entries_.end()) return;
        Entry& entry = found->second;
        entry.ready |= ready;
        const bool ends = over && !std::exchange(entry.ended, entry.ended || over);
        if (entry.busy) {
            if ((entry.wanted & entry.ready) == 0) return;
            entry.ready &= ~std::exchange(entry.wanted, 0);
        } else if (ends) {
            event = DatabaseEvent::mysql_ended;
        } else {
            return;
        }
        owner = entry.owner;
        session = entry.session;
    }
    tell(event, id, owner, session);
}

// What of `wanted` has come already; 0: the owner will be told.
std::uint32_t Mysql::wait_for(std::uint64_t id, std::uint32_t wanted) {
    Handle owner;
    {
        const std::lock_guard lock(mutex_);
        Entry& entry = entries_.find(id)->second;
        if (wanted != MysqlConnection::kAgain) {
            const std::uint32_t come = entry.ready & wanted;
            entry.ready &= ~come;
            if (come == 0) entry.wanted = wanted;
            return come;
        }
        owner = entry.owner;
    }
    tell(DatabaseEvent::mysql_ready, id, owner, 0);  // behind what waits for the owner
    return 0;
}

// ---- operations: the owner's worker ----

// One that its owner knows to be there: nobody else takes it away.
MysqlConnection& Mysql::connection(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    return *entries_.find(id)->second.connection;
}

Mysql::State Mysql::state(std::uint64_t id, Handle owner) {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(id);
    if (found == entries_.end() || found->second.owner != owner) return State::none;
    const MysqlConnection* connection = found->second.connection.get();
    if (connection == nullptr || connection->lost()) return State::none;
    return connection->busy() ? State::busy : State::idle;
}

const SqlResult& Mysql::result(std::uint64_t id) { return connection(id).result(); }

bool Mysql::ended(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(id);
    return found == entries_.end() || found->second.ended;
}

void Mysql::set_session(std::uint64_t id, std::uint64_t session) {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(id);
    if (found != entries_.end()) found->second.session = session;
}

std::uint64_t Mysql::session_of(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(id);
    return found == entries_.end() ? 0 : found->second.session;
}

void Mysql::begin(std::uint64_t id, const MysqlStatement& statement) {
    count(counters_.mysql_operations);
    MysqlConnection* connection = nullptr;
    {
        const std::lock_guard lock(mutex_);
        Entry& entry = entries_.find(id)->second;
        entry.busy = true;
        connection = entry.connection.get();
    }
    connection->begin(statement);
}

bool Mysql::proceed(std::uint64_t id, RowSink& sink) {
    MysqlConnection& connection = this->connection(id);
    std::uint32_t ready = MysqlConnection::kRead | MysqlConnection::kWrite;
    while (const std::uint32_t wanted = connection.proceed(ready, sink)) {
        ready = wait_for(id, wanted);
        if (ready == 0) return false;
    }
    end_operation(id);
    return true;
}

void Mysql::refuse_rows(std::uint64_t id, std::string why) {
    connection(id).refuse_rows(SqlCode::error, std::move(why));
    end_operation(id);
}

void Mysql::end_operation(std::uint64_t id) {
    const MysqlConnection* connection = nullptr;
    {
        const std::lock_guard lock(mutex_);
        Entry& entry = entries_.find(id)->second;
        entry.busy = false;
        entry.session = 0;
        entry.wanted = 0;
        connection = entry.connection.get();
    }
    if (!connection->result().ok()) count(counters_.mysql_failed);
    if (connection->lost()) count(counters_.mysql_lost);
    if (connection->malformed()) count(counters_.mysql_malformed);
}

// ---- ends ----

void Mysql::close(std::uint64_t id, Handle owner) {
    std::unique_ptr<MysqlConnection> connection;
    std::shared_ptr<MysqlAttempt> attempt;
    Options options;
    {
        const std::lock_guard lock(mutex_);
        const auto found = entries_.find(id);
        if (found == entries_.end() || found->second.owner != owner) return;
        connection = std::move(found->second.connection);
        attempt = std::move(found->second.attempt);
        options = std::move(found->second.options);
        entries_.erase(found);
    }
    counters_.mysql_connections.fetch_sub(1, std::memory_order_relaxed);
    if (attempt != nullptr) attempt->abort();
    if (connection == nullptr || !connection->busy()) return;
    count(counters_.mysql_closed_busy);
    stop_statement(connection->session(), std::move(options));
}

// Has a statement ended whose client doesn't wait any more.
void Mysql::stop_statement(const MysqlSession& session, Options options) {
    const std::int64_t until_ns = RealClock::monotonic() + kStopWaitNs;
    const bool accepted = stops_.submit([this, session, options, until_ns] {
        const auto attempt = std::make_shared<MysqlAttempt>(std::min(options->connect_ms, kStopMs));
        bool too_late = RealClock::monotonic() > until_ns;
        {
            const std::lock_guard lock(mutex_);
            too_late = too_late || stopping_;
            stop_attempt_ = attempt;
        }
        if (too_late) return count(counters_.mysql_stop_failed);
        const SqlResult result = kill_statement(session, *options, *attempt);
        attempt->finish();
        if (!result.ok()) {
            count(counters_.mysql_stop_failed);
        } else if (result.affected > 0) {
            count(counters_.mysql_stopped);
        }
    });
    if (!accepted) count(counters_.mysql_stop_failed);
}

void Mysql::release_owner(Handle owner) {
    std::vector<std::uint64_t> ids;
    {
        const std::lock_guard lock(mutex_);
        for (const auto& [id, entry] : entries_) {
            if (entry.owner == owner) ids.push_back(id);
        }
    }
    for (const std::uint64_t id : ids) close(id, owner);
}

}  // namespace perilune
