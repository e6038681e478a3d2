// Databases: those that the services of a node use.
//
// Threads:   as their classes say.
// Ownership: made before the kernel starts, destroyed after it has stopped.
#pragma once

#include <string>

#include "data/mysql.h"
#include "data/sqlite.h"

namespace perilune {

class Databases {
  public:
    Databases(Kernel& kernel, std::string data_folder)
        : mysql_(kernel), sqlite_(kernel, std::move(data_folder)) {}

    Status start() { return mysql_.start(); }
    // No thread of theirs runs any more. False when one still does at `deadline_ns`.
    bool stop(std::int64_t deadline_ns) {
        const bool connected = mysql_.stop(deadline_ns);
        return sqlite_.stop(deadline_ns) && connected;
    }
    void release_owner(Handle owner) {
        mysql_.release_owner(owner);
        sqlite_.release_owner(owner);
    }

    Mysql& mysql() { return mysql_; }
    Sqlite& sqlite() { return sqlite_; }
    template <typename Visit>
    void each_counter(Visit visit) const {
        mysql_.counters().each(visit);
        sqlite_.counters().each(visit);
    }

  private:
    Mysql mysql_;
    Sqlite sqlite_;
};

}  // namespace perilune
