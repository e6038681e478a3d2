#include "data/mysql_error.h"

#include <mariadb/errmsg.h>
#include <mariadb/mysqld_error.h>

#include <string_view>

namespace perilune {

namespace {

// Where the headers have no name for it, since it is MySQL's alone.
constexpr unsigned kQueryTimeout = 3024;
constexpr unsigned kLockNotAvailable = 3572;
constexpr unsigned kCheckConstraint = 3819;
constexpr unsigned kInteractionTimeout = 4031;  // the server closes a connection that was idle

bool is_of_library(unsigned native) {
    return (native >= CR_MIN_ERROR && native <= CR_MAX_ERROR) ||
           (native >= CR_EVENT_CREATE_FAILED && native <= CR_MARIADB_LAST_ERROR);
}

SqlCode code_of_number(unsigned native) {
    switch (native) {
        case ER_DUP_ENTRY:
        case ER_DUP_ENTRY_WITH_KEY_NAME:
        case ER_DUP_UNIQUE:
        case ER_DUP_KEY: return SqlCode::exists;
        case ER_LOCK_WAIT_TIMEOUT:
        case ER_LOCK_DEADLOCK:
        case ER_CHECKREAD:
        case kLockNotAvailable: return SqlCode::conflict;
        case ER_NO_DEFAULT_FOR_FIELD:
        case ER_CONSTRAINT_FAILED:
        case kCheckConstraint: return SqlCode::constraint;
        case ER_DBACCESS_DENIED_ERROR:
        case ER_ACCESS_DENIED_ERROR:
        case ER_TABLEACCESS_DENIED_ERROR:
        case ER_COLUMNACCESS_DENIED_ERROR:
        case ER_SPECIFIC_ACCESS_DENIED_ERROR:
        case ER_PROCACCESS_DENIED_ERROR:
        case ER_MUST_CHANGE_PASSWORD:
        case CR_SECURE_AUTH:
        case CR_PLUGIN_NOT_ALLOWED:
        case CR_AUTH_PLUGIN_CANNOT_LOAD:
        case CR_AUTH_PLUGIN_ERR: return SqlCode::denied;
        case ER_CON_COUNT_ERROR:
        case ER_TOO_MANY_USER_CONNECTIONS:
        case ER_USER_LIMIT_REACHED:
        case ER_SERVER_SHUTDOWN:
        case ER_CONNECTION_KILLED:
        case kInteractionTimeout: return SqlCode::unavailable;
        case ER_NET_PACKET_TOO_LARGE:
        case CR_NET_PACKET_TOO_LARGE: return SqlCode::too_large;
        case ER_STATEMENT_TIMEOUT:
        case kQueryTimeout: return SqlCode::timeout;
        default: return is_of_library(native) ? SqlCode::unavailable : SqlCode::error;
    }
}

}  // namespace

SqlCode mysql_code(unsigned native, const char* state) {
    const SqlCode code = code_of_number(native);
    if (code != SqlCode::error) return code;
    const std::string_view kind = std::string_view(state).substr(0, 2);
    if (kind == "40") return SqlCode::conflict;
    if (kind == "23") return SqlCode::constraint;
    if (kind == "28") return SqlCode::denied;
    // "01" is a warning that a strict server makes an error.
    if (kind == "01" || kind == "21" || kind == "22" || kind == "42") return SqlCode::invalid;
    return SqlCode::error;
}

bool mysql_ends_connection(unsigned native) {
    switch (native) {
        case ER_SERVER_SHUTDOWN:
        case ER_CONNECTION_KILLED:
        case ER_NET_PACKET_TOO_LARGE:
        case kInteractionTimeout: return true;
        default: return is_of_library(native);
    }
}

bool mysql_leaves_unknown(unsigned native) {
    switch (native) {
        // It was not sent as a whole, or was refused before it ran.
        case CR_SERVER_GONE_ERROR:
        case ER_NET_PACKET_TOO_LARGE:
        case kInteractionTimeout: return false;
        default: return mysql_ends_connection(native);
    }
}

}  // namespace perilune
