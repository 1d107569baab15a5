//! Interoperation with openworkflow for TypeScript, on PostgreSQL.

mod interop;

type Db = interop::postgres::SharedPostgres;
