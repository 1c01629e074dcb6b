"""Which records another database than DataFusion could pass."""

import re

# What only DataFusion itself has, by the text of the statement.
FOREIGN = {
    "plan": r"^EXPLAIN\b",
    "external data": r"^CREATE\s+(OR\s+REPLACE\s+)?(UNBOUNDED\s+)?EXTERNAL\b|^COPY\b|^INSERT\s+OVERWRITE\b"
                     r"|\b(FROM|JOIN|DESCRIBE)\s+'|\bparquet_metadata\s*\(|\b\w+_cache\s*\(",
    "view": r"^CREATE\s+(OR\s+REPLACE\s+)?(TEMP\w*\s+)?VIEW\b|^DROP\s+VIEW\b|^SHOW\s+CREATE\b",
    "temporary table": r"^CREATE\s+(OR\s+REPLACE\s+)?TEMP\w*\s+TABLE\b",
    "function definition": r"^(CREATE(\s+OR\s+REPLACE)?|DROP)\s+FUNCTION\b",
    "catalog of DataFusion": r"^(CREATE|DROP)\s+(DATABASE|CATALOG)\b|\bdatafusion\.public\b|^SHOW\s+(ALL|FUNCTIONS)\b"
                             r"|\bdf_settings\b|\binformation_schema\.(routines|parameters)\b|^SHOW\s+TABLES\b",
    "setting of DataFusion": r"^(SET|RESET|SHOW)\s+datafusion\.",
    "extension of the test harness": r"\basync_abs\s*\(|\bAS\s+UUID\b",
}
# Options of the engine that must not change a result.
NEUTRAL = re.compile(r"datafusion\.(optimizer|explain|execution\.(parquet\.|\w*partition|batch_size|coalesce_batches"
                     r"|collect_statistics|skip_partial|sort_\w+|planning_concurrency|meta_fetch|hash_join_buffering))")
# What other options have to be, for the records after them to be portable.
EXPECTED_SETTINGS = {
    "datafusion.sql_parser.dialect": "generic",
    "datafusion.sql_parser.parse_float_as_decimal": "true",
    "datafusion.sql_parser.enable_ident_normalization": "true",
    "datafusion.sql_parser.default_null_ordering": "nulls_max",
    "datafusion.sql_parser.map_string_types_to_utf8view": "true",
    "datafusion.sql_parser.support_varchar_with_length": "true",
    "datafusion.execution.enable_ansi_mode": "false",
    "datafusion.execution.enable_recursive_ctes": "true",
    "datafusion.catalog.information_schema": "true",
    "datafusion.catalog.default_schema": "public",
}
TARGET = re.compile(
    r"(?:CREATE\s+(?:OR\s+REPLACE\s+)?(?:UNBOUNDED\s+)?(?:EXTERNAL\s+)?(?:TEMP\w*\s+)?(?:TABLE|VIEW)\s+"
    r"(?:IF\s+NOT\s+EXISTS\s+)?"
    r"|INSERT\s+(?:INTO|OVERWRITE)\s+(?:TABLE\s+)?|UPDATE\s+|DELETE\s+FROM\s+|MERGE\s+INTO\s+|TRUNCATE\s+TABLE\s+"
    r"|ALTER\s+TABLE\s+|SELECT\b[^()]*\bINTO\s+)((?:\"[^\"]+\"|[\w.])+)", re.IGNORECASE)
FILL = re.compile(
    r"(?:INSERT\s+INTO|CREATE\s+(?:OR\s+REPLACE\s+)?TABLE)\s+(?:IF\s+NOT\s+EXISTS\s+)?((?:\"[^\"]+\"|[\w.])+)"
    r"\s*(?:\(|AS\b|VALUES\b|SELECT\b|WITH\b)", re.IGNORECASE)
# Refusals that the documentation announces.
REFUSALS = {
    "type that is not stored": r"type \S*(Interval|Duration|Union)\S* cannot be stored",
    "constraint that is not supported": r"UNIQUE.* is not supported",
    "correlated subquery with LIMIT": r"a LIMIT, an OFFSET or a window inside of a subquery",
}
# Errors that DataFusion expects because it lacks a feature.
LACK = re.compile(r"not implemented|not support|unsupported", re.IGNORECASE)
NO_TABLE = re.compile(r"table '?([\w.\"]+?)'? (?:not found|does not exist)", re.IGNORECASE)


def bare(name):
    """The last part of a name that may be qualified and quoted."""
    return re.findall(r'"[^"]+"|[^."]+', name)[-1].strip('"').lower()


def without_comments(sql):
    return re.sub(r"--[^\n]*", "", sql).strip()


class Portability:
    """Why a record of a file cannot be asked of another database; remembers what earlier records left undone."""

    def __init__(self, path):
        self.spark = "spark" in path.parts
        self.missing = {}
        self.created = set()
        self.settings = set()

    def reason(self, record):
        sql = without_comments(record.sql)
        if self.spark:
            return "functions of Spark"
        if any(re.match(r"datafusion\b", line) for line in record.results):
            return "catalog of DataFusion"
        for reason, pattern in FOREIGN.items():
            if re.search(pattern, sql, re.IGNORECASE):
                return reason
        if self.settings:
            return "setting of DataFusion"
        words = sql if "information_schema" in sql.lower() else re.sub(r"'[^']*'", "''", sql)
        for name, reason in self.missing.items():
            if re.search(rf"(?:\b(?:FROM|JOIN|INTO|UPDATE|TABLE|DESCRIBE|USING)|[,=])[\s('\"]*(?:\w+\.)*\"?{re.escape(name)}\b",
                         words, re.IGNORECASE):
                return f"depends on: {reason}"
        return None

    def note_setting(self, sql):
        if match := re.match(r"SET\s+(datafusion\.[\w.]+)\s*(?:=|TO)\s*(.*?)[;\s]*$", sql, re.IGNORECASE | re.DOTALL):
            name, value = match[1].lower(), match[2].strip("'\"").lower()
            if NEUTRAL.match(name) or EXPECTED_SETTINGS.get(name) == value:
                self.settings.discard(name)
            else:
                self.settings.add(name)
        elif match := re.match(r"RESET\s+(datafusion\.[\w.]+)", sql, re.IGNORECASE):
            self.settings.discard(match[1].lower())

    def note(self, record, reason, done):
        """Remembers what a record did: `reason` says why not, if it did nothing."""
        sql = without_comments(record.sql)
        self.note_setting(sql)
        if match := re.match(r"DROP\s+(?:TABLE|VIEW)\s+(?:IF\s+EXISTS\s+)?([\w.\"]+)", sql, re.IGNORECASE):
            self.missing.pop(bare(match[1]), None)
        elif (match := TARGET.match(sql)) and record.expect != "error":
            if not done:
                self.missing[bare(match[1])] = reason
            elif sql.upper().startswith("CREATE"):
                self.missing.pop(bare(match[1]), None)
                self.created.add(bare(match[1]))

    def refusal(self, record, error):
        """Why an error is one that only DataFusion itself would not give."""
        for reason, pattern in REFUSALS.items():
            if re.search(pattern, error):
                return reason
        if match := NO_TABLE.search(error):
            name = bare(match[1])
            is_cte = re.search(rf"\b{re.escape(name)}\W[^()]*(\([^()]*\)\s*)?AS\s*\(", record.sql, re.IGNORECASE)
            if name not in self.created and not is_cte:
                return "table of the test harness"
        return None
