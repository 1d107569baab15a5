//! Interoperation with openworkflow for TypeScript, on SQLite.

mod interop;

type Db = interop::sqlite::SharedSqlite;
