//! Clauses of `CREATE`, `ALTER` and `TRUNCATE`.

use datafusion::sql::sqlparser::ast::{self, ColumnOption, HiveDistributionStyle, TableConstraint};
use plexus_model::{Error, Result};

use super::types::check_type;
use super::{refuse, unsupported};

pub(super) fn check_create_table(create: &ast::CreateTable) -> Result<()> {
    // One field a line would take most of the function.
    #[rustfmt::skip]
    let ast::CreateTable {
        or_replace, temporary, external, dynamic, global, if_not_exists, transient, volatile, iceberg,
        snapshot, name: _, columns, constraints, hive_distribution, hive_formats: _, table_options: _,
        file_format, location, query: _, without_rowid, like, clone, version, comment, on_commit,
        on_cluster, primary_key, order_by, partition_by, cluster_by: _, clustered_by, inherits,
        partition_of, for_values, strict, copy_grants, enable_schema_evolution, change_tracking,
        data_retention_time_in_days, max_data_extension_time_in_days, default_ddl_collation,
        with_aggregation_policy, with_row_access_policy, with_storage_lifecycle_policy, with_tags,
        external_volume, base_location, catalog, catalog_sync, storage_serialization_policy, target_lag,
        warehouse, refresh_mode, initialize, require_user, diststyle, distkey, sortkey, backup,
    } = create;
    refuse!("CREATE TABLE":
        *or_replace && *if_not_exists => "OR REPLACE together with IF NOT EXISTS",
        *temporary => "TEMPORARY", *external => "EXTERNAL", *dynamic => "DYNAMIC",
        global.is_some() => "GLOBAL",
        *transient => "TRANSIENT", *volatile => "VOLATILE", *iceberg => "ICEBERG", *snapshot => "SNAPSHOT",
        *hive_distribution != HiveDistributionStyle::NONE => "PARTITIONED BY or SKEWED BY",
        file_format.is_some() => "STORED AS", location.is_some() => "LOCATION",
        *without_rowid => "WITHOUT ROWID", like.is_some() => "LIKE", clone.is_some() => "CLONE",
        version.is_some() => "a version", comment.is_some() => "COMMENT", on_commit.is_some() => "ON COMMIT",
        on_cluster.is_some() => "ON CLUSTER",
        primary_key.is_some() => "PRIMARY KEY behind the columns: write it among them, it",
        order_by.is_some() => "ORDER BY: write CLUSTER BY, it", partition_by.is_some() => "PARTITION BY",
        clustered_by.is_some() => "CLUSTERED BY", inherits.is_some() => "INHERITS",
        partition_of.is_some() || for_values.is_some() => "PARTITION OF", *strict => "STRICT",
        *copy_grants => "COPY GRANTS", enable_schema_evolution.is_some() => "ENABLE_SCHEMA_EVOLUTION",
        change_tracking.is_some() => "CHANGE_TRACKING",
        data_retention_time_in_days.is_some() || max_data_extension_time_in_days.is_some()
            => "DATA_RETENTION_TIME_IN_DAYS: write WITH (retention = '7 days'), it",
        default_ddl_collation.is_some() => "DEFAULT_DDL_COLLATION",
        with_aggregation_policy.is_some() || with_row_access_policy.is_some()
            || with_storage_lifecycle_policy.is_some() => "a policy",
        with_tags.is_some() => "TAG", external_volume.is_some() => "EXTERNAL_VOLUME",
        base_location.is_some() => "BASE_LOCATION", catalog.is_some() || catalog_sync.is_some() => "CATALOG",
        storage_serialization_policy.is_some() => "STORAGE_SERIALIZATION_POLICY",
        target_lag.is_some() => "TARGET_LAG", warehouse.is_some() => "WAREHOUSE",
        refresh_mode.is_some() => "REFRESH_MODE", initialize.is_some() => "INITIALIZE",
        *require_user => "REQUIRE USER", diststyle.is_some() => "DISTSTYLE", distkey.is_some() => "DISTKEY",
        sortkey.is_some() => "SORTKEY: write CLUSTER BY, it", backup.is_some() => "BACKUP",
    );
    check_keys(columns, constraints)
}

/// Checks columns and constraints, of which one is the primary key at most.
fn check_keys(columns: &[ast::ColumnDef], constraints: &[TableConstraint]) -> Result<()> {
    let mut keys = 0;
    for column in columns {
        check_column(column)?;
        keys += column.options.iter().filter(|o| matches!(o.option, ColumnOption::PrimaryKey(_))).count();
    }
    for constraint in constraints {
        check_constraint(constraint)?;
        keys += usize::from(matches!(constraint, TableConstraint::PrimaryKey(_)));
    }
    if keys > 1 {
        return Err(Error::invalid(
            "CREATE TABLE: there are several primary keys; a key of several columns is written PRIMARY KEY \
             (a, b)",
        ));
    }
    Ok(())
}

/// Checks the definition of a column.
fn check_column(column: &ast::ColumnDef) -> Result<()> {
    let ast::ColumnDef { name, data_type, options } = column;
    check_type(data_type)?;
    let count = |is_one: fn(&ColumnOption) -> bool| options.iter().filter(|o| is_one(&o.option)).count();
    let defaults = count(|option| matches!(option, ColumnOption::Default(_)));
    let nulls = count(|option| matches!(option, ColumnOption::Null));
    let not_nulls = count(|option| matches!(option, ColumnOption::NotNull | ColumnOption::PrimaryKey(_)));
    if defaults > 1 || (nulls > 0 && not_nulls > 0) {
        let what = if defaults > 1 { "has two defaults" } else { "is NULL and NOT NULL" };
        return Err(Error::invalid(format!("column {name} {what}")));
    }
    for ast::ColumnOptionDef { name: _, option } in options {
        match option {
            ColumnOption::Null | ColumnOption::NotNull | ColumnOption::Default(_) => {}
            ColumnOption::PrimaryKey(key) => check_key(key)?,
            ColumnOption::Check(check) => check_check(check)?,
            ColumnOption::Unique(_)
            | ColumnOption::ForeignKey(_)
            | ColumnOption::Materialized(_)
            | ColumnOption::Ephemeral(_)
            | ColumnOption::Alias(_)
            | ColumnOption::DialectSpecific(_)
            | ColumnOption::CharacterSet(_)
            | ColumnOption::Collation(_)
            | ColumnOption::Comment(_)
            | ColumnOption::OnUpdate(_)
            | ColumnOption::Generated { .. }
            | ColumnOption::Options(_)
            | ColumnOption::Identity(_)
            | ColumnOption::OnConflict(_)
            | ColumnOption::Policy(_)
            | ColumnOption::Tags(_)
            | ColumnOption::Srid(_)
            | ColumnOption::Invisible => {
                return Err(Error::unsupported(format!("column {name}: {option} is not supported")));
            }
        }
    }
    Ok(())
}

fn check_constraint(constraint: &TableConstraint) -> Result<()> {
    match constraint {
        TableConstraint::PrimaryKey(key) => check_key(key),
        TableConstraint::Check(check) => check_check(check),
        TableConstraint::Unique(_)
        | TableConstraint::ForeignKey(_)
        | TableConstraint::Index(_)
        | TableConstraint::FulltextOrSpatial(_)
        | TableConstraint::PrimaryKeyUsingIndex(_)
        | TableConstraint::UniqueUsingIndex(_) => {
            Err(Error::unsupported(format!("constraint {constraint} is not supported")))
        }
    }
}

fn check_key(key: &ast::PrimaryKeyConstraint) -> Result<()> {
    let ast::PrimaryKeyConstraint {
        name: _,
        index_name,
        index_type,
        columns: _,
        index_options,
        characteristics,
    } = key;
    refuse!("PRIMARY KEY":
        index_name.is_some() || index_type.is_some() || !index_options.is_empty() => "an index",
        characteristics.is_some() => "DEFERRABLE or ENFORCED",
    );
    Ok(())
}

fn check_check(check: &ast::CheckConstraint) -> Result<()> {
    let ast::CheckConstraint { name: _, expr: _, enforced } = check;
    refuse!("CHECK": *enforced == Some(false) => "NOT ENFORCED");
    Ok(())
}

pub(super) fn check_create_index(create: &ast::CreateIndex) -> Result<()> {
    let ast::CreateIndex {
        name: _,
        table_name: _,
        using: _,
        columns: _,
        unique,
        concurrently: _,
        if_not_exists: _,
        include,
        nulls_distinct,
        with: _,
        predicate,
        index_options,
        alter_options,
    } = create;
    // Indexes are always built in the background, so CONCURRENTLY is obeyed.
    refuse!("CREATE INDEX":
        *unique => "UNIQUE", !include.is_empty() => "INCLUDE", nulls_distinct.is_some() => "NULLS DISTINCT",
        predicate.is_some() => "WHERE", !index_options.is_empty() => "an option behind the columns",
        !alter_options.is_empty() => "ALGORITHM or LOCK",
    );
    Ok(())
}

pub(super) fn check_alter_table(alter: &ast::AlterTable) -> Result<()> {
    let ast::AlterTable {
        name: _,
        if_exists,
        only,
        operations,
        location,
        on_cluster,
        table_type,
        end_token: _,
    } = alter;
    refuse!("ALTER TABLE":
        *if_exists => "IF EXISTS", *only => "ONLY", location.is_some() => "LOCATION",
        on_cluster.is_some() => "ON CLUSTER", table_type.is_some() => "a type of table",
    );
    for operation in operations {
        match operation {
            ast::AlterTableOperation::AddColumn { column_def, .. } => check_column(column_def)?,
            ast::AlterTableOperation::AddConstraint { constraint, .. } => check_constraint(constraint)?,
            ast::AlterTableOperation::AlterColumn {
                column_name: _,
                op: ast::AlterColumnOperation::SetDataType { data_type, .. },
            } => check_type(data_type)?,
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn check_truncate(truncate: &ast::Truncate) -> Result<()> {
    let ast::Truncate { table_names, partitions, table: _, if_exists: _, identity, cascade, on_cluster } =
        truncate;
    for ast::TruncateTableTarget { name: _, only, has_asterisk } in table_names {
        refuse!("TRUNCATE": *only => "ONLY", *has_asterisk => "*");
    }
    refuse!("TRUNCATE":
        partitions.is_some() => "PARTITION",
        matches!(identity, Some(ast::TruncateIdentityOption::Restart)) => "RESTART IDENTITY",
        matches!(cascade, Some(ast::CascadeOption::Cascade)) => "CASCADE",
        on_cluster.is_some() => "ON CLUSTER",
    );
    Ok(())
}
