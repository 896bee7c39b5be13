/* settings_table.c - every setting there is, in the order in which `moonwright config` shows them.
 *
 * To add one, add a line. A setting with `needed_for` switches that feature off while it is empty.
 */
#include "engine/settings.h"

#define TEXT(name, fallback, needed, meaning)                      \
    {                                                              \
        name, fallback, needed, meaning, false, SETTING_TEXT, 0, 0 \
    }
#define SECRET(name, needed, meaning)                       \
    {                                                       \
        name, "", needed, meaning, true, SETTING_TEXT, 0, 0 \
    }
#define DATABASE(name, meaning)                             \
    {                                                       \
        name, "", "", meaning, true, SETTING_DATABASE, 0, 0 \
    }
#define URL(name, fallback, needed, meaning)                      \
    {                                                             \
        name, fallback, needed, meaning, false, SETTING_URL, 0, 0 \
    }
#define SWITCH(name, fallback, meaning)                          \
    {                                                            \
        name, fallback, "", meaning, false, SETTING_SWITCH, 0, 0 \
    }
#define ADDRESS(name, fallback, meaning)                          \
    {                                                             \
        name, fallback, "", meaning, false, SETTING_ADDRESS, 0, 0 \
    }
#define CRON(name, fallback, meaning)                          \
    {                                                          \
        name, fallback, "", meaning, false, SETTING_CRON, 0, 0 \
    }
#define INT(name, fallback, low, high, meaning)                    \
    {                                                              \
        name, fallback, "", meaning, false, SETTING_INT, low, high \
    }

#define MINUTE 60000
#define DAY 86400000

static const struct setting_info table[] = {
    /* where things are */
    DATABASE("DATABASE_URL", "the engine's PostgreSQL; empty: a private one in MOONWRIGHT_DATA"),
    DATABASE("SERVICETITAN_DATABASE_URL", "PostgreSQL of the st_ tables; empty: DATABASE_URL"),
    DATABASE("MOONWRIGHT_READONLY_URL", "login role that may only read views; empty: db.* is off"),
    SWITCH("DATABASE_PREPARE", "1", "0: no prepared statements, for a pooler of transactions"),
    TEXT("MOONWRIGHT_DATA", "var", "", "folder of the private PostgreSQL, logs and heartbeats"),
    TEXT("MOONWRIGHT_POSTGRES_USER", "postgres", "",
         "as whom the private PostgreSQL runs, started by root"),
    TEXT("MOONWRIGHT_HOME", "", "",
         "folder with lua/ and schema/; empty: found beside the program"),
    TEXT("MOONWRIGHT_WORKFLOWS", "", "", "the company's Lua; empty: workflows/ in MOONWRIGHT_HOME"),
    ADDRESS("MOONWRIGHT_HTTP", "127.0.0.1:8080", "host:port of the web role"),
    TEXT("MOONWRIGHT_ROLES", "", "",
         "roles that must beat for /readyz; empty: those of this `run`"),
    URL("PUBLIC_URL", "", "webhooks", "this server's address as vendors see it"),
    /* safety */
    SWITCH("MOONWRIGHT_LIVE", "", "0: nothing is ever sent, whatever `moonwright live` says"),
    TEXT("MOONWRIGHT_HTTP_HOSTS", "", "",
         "hosts that the company's own actions may call; those of our own network as addresses"),
    TEXT("MOONWRIGHT_TEST_RECIPIENTS", "", "", "numbers and addresses reached in shadow mode too"),
    TEXT("MOONWRIGHT_CLOCK", "", "", "BUSINESS@REAL*SCALE, taken when the database is made"),
    /* ServiceTitan */
    TEXT("SERVICE_TITAN_CLIENT_ID", "", "sync", "OAuth2 client id"),
    SECRET("SERVICE_TITAN_CLIENT_SECRET", "sync", "OAuth2 client secret"),
    TEXT("SERVICE_TITAN_TENANT_ID", "", "sync", "the tenant's number"),
    SECRET("SERVICE_TITAN_APP_KEY", "sync", "the app key, sent as ST-App-Key"),
    URL("SERVICE_TITAN_API_URL", "https://api.servicetitan.io", "", "API base"),
    URL("SERVICE_TITAN_AUTH_URL", "https://auth.servicetitan.io", "", "token server's base"),
    CRON("SYNC_FULL_CRON", "0 2 * * *", "when everything is fetched again"),
    CRON("SYNC_INCREMENTAL_CRON", "*/5 * * * *", "when changes are fetched"),
    INT("SYNC_PAGE_SIZE", "500", 1, 5000, "rows asked for at once"),
    INT("SYNC_REQUESTS_PER_SECOND", "60", 1, 1000, "ServiceTitan's rate limit"),
    INT("SYNC_PARENT_WAIT_MS", "900000", 1, DAY, "how long a change waits for its parents"),
    INT("SYNC_STALE_MS", "1800000", 1000, DAY, "older copies hold customer messages back"),
    /* GoHighLevel */
    SECRET("GHL_API_KEY", "ghl", "Private Integration Token"),
    TEXT("GHL_LOCATION_ID", "", "ghl", "the location's id"),
    SWITCH("GHL_SYNC_ENABLED", "1", "0: ghl.* does nothing, and says so in its step"),
    SWITCH("GHL_AUTO_SYNC_ESTIMATES", "1", "0: so does ghl.sync_estimate_to_ghl"),
    URL("GHL_BASE_URL", "https://services.leadconnectorhq.com", "", "API base"),
    TEXT("GHL_API_VERSION", "2021-07-28", "", "sent as Version"),
    TEXT("GHL_WEBHOOK_PUBLIC_KEY", "", "", "Ed25519 key of GHL's webhooks"),
    /* Twilio */
    TEXT("TWILIO_ACCOUNT_SID", "", "sms", "the account"),
    SECRET("TWILIO_AUTH_TOKEN", "sms", "signs requests and webhooks"),
    TEXT("TWILIO_PHONE_NUMBER", "", "", "the sending number, unless there is a messaging service"),
    TEXT("TWILIO_MESSAGING_SERVICE_SID", "", "", "the sending service, instead of a number"),
    URL("TWILIO_STATUS_CALLBACK_URL", "", "", "empty: PUBLIC_URL/hooks/twilio/status"),
    URL("TWILIO_BASE_URL", "https://api.twilio.com", "", "API base"),
    /* SendGrid */
    SECRET("SENDGRID_API_KEY", "email", "API key"),
    TEXT("SENDGRID_FROM_EMAIL", "", "email", "the sender's address"),
    TEXT("SENDGRID_FROM_NAME", "", "", "the sender's name"),
    TEXT("SENDGRID_WEBHOOK_PUBLIC_KEY", "", "", "key of the event webhook; empty: it is off"),
    URL("SENDGRID_BASE_URL", "https://api.sendgrid.com", "", "API base"),
    /* CallRail, Anthropic */
    SECRET("CALLRAIL_SIGNING_KEY", "", "one per company, separated by commas; empty: it is off"),
    SECRET("ANTHROPIC_API_KEY", "", "for the self-healing agent and ai.*"),
    TEXT("ANTHROPIC_MODEL", "", "", "which model"),
    TEXT("ANTHROPIC_VERSION", "2023-06-01", "", "sent as anthropic-version"),
    URL("ANTHROPIC_BASE_URL", "https://api.anthropic.com", "", "API base"),
    /* rhythm: real time; tests shorten these */
    INT("EVENT_POLL_INTERVAL_MS", "30000", 10, DAY, "how often detection looks without being told"),
    INT("EXECUTE_POLL_INTERVAL_MS", "1000", 10, DAY,
        "how often due work is looked for; where NOTIFY is heard a fifth as often"),
    INT("HEALTH_CHECK_INTERVAL_MS", "300000", 100, DAY, "how often the monitor looks"),
    INT("RETENTION_PAYLOAD_DAYS", "30", 0, 36500,
        "payloads go so long after their instance has ended; 0: never"),
    INT("RETENTION_LEDGER_DAYS", "400", 0, 36500, "so do rows of the ledger and of events"),
    INT("RETENTION_INTERVAL_MS", "3600000", 100, DAY, "how often that is looked after"),
    INT("WORKER_LEASE_MS", "30000", 4000, 10 * MINUTE, "how long a silent worker keeps its work"),
    INT("INDOUBT_LOOK_MS", "45000", 1, DAY, "first look for a send with no known outcome"),
    INT("INDOUBT_LOOK_AGAIN_MS", "120000", 1, DAY, "second look for it"),
    INT("INDOUBT_EMAIL_MS", "600000", 1, DAY, "how long an e-mail's webhook event is waited for"),
    INT("INDOUBT_GHL_MS", "60000", 1, DAY, "when a GHL record is looked for again"),
    INT("LATE_MS", "600000", 1, DAY, "real lateness that holds a customer message"),
    INT("SCHEDULE_LATE_MS", "60000", 1, DAY, "real lateness at which a fire counts as missed"),
    INT("DRAIN_MS", "20000", 0, DAY, "how long workers may finish when the program is stopped"),
    /* how it speaks */
    TEXT("MOONWRIGHT_LOG", "text", "", "text or json"),
    TEXT("MOONWRIGHT_LOG_LEVEL", "info", "", "debug, info, warn or error"),
};

const struct setting_info *settings_table(int *count)
{
    *count = ARRAY_LEN(table);
    return table;
}
