"""What the catalog of PostgreSQL says of a schema."""

# Everything that makes up a schema, as (kind, name, definition).
CATALOG = """
WITH ours AS (
  -- Privileges that were granted and revoked again are the ones that there are by default.
  SELECT oid, relname, relkind, relowner,
         COALESCE(relacl,
                  acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)
         ) AS relacl
  FROM pg_class WHERE relnamespace = 'public'::regnamespace
)
SELECT 'relation' AS kind, relname::text AS name,
       concat_ws(' ', relkind, pg_get_userbyid(relowner), relacl) AS definition
FROM ours
UNION ALL
SELECT 'column', o.relname || '.' || a.attname,
       concat_ws(' ', a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                 a.attidentity, a.attgenerated, a.attcollation::regcollation,
                 pg_get_expr(d.adbin, d.adrelid), a.attacl)
FROM ours AS o
JOIN pg_attribute AS a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE o.relkind IN ('r', 'p', 'v', 'm')
UNION ALL
SELECT 'constraint',
       CASE WHEN contypid = 0 THEN conrelid::regclass::text ELSE contypid::regtype::text END
         || '.' || conname,
       concat_ws(' ', contype, convalidated, pg_get_constraintdef(oid))
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', o.relname, pg_get_indexdef(o.oid) FROM ours AS o WHERE o.relkind = 'i'
UNION ALL
SELECT 'trigger', o.relname || '.' || t.tgname,
       concat_ws(' ', t.tgenabled, pg_get_triggerdef(t.oid))
FROM pg_trigger AS t JOIN ours AS o ON o.oid = t.tgrelid WHERE NOT t.tgisinternal
UNION ALL
SELECT 'function', oid::regprocedure::text,
       concat_ws(' ', pg_get_functiondef(oid), COALESCE(proacl, acldefault('f', proowner)))
FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL
SELECT 'domain', t.typname::text,
       concat_ws(' ', t.typbasetype::regtype, pg_get_userbyid(t.typowner), t.typacl,
                 obj_description(t.oid, 'pg_type'))
FROM pg_type AS t WHERE t.typnamespace = 'public'::regnamespace AND t.typtype = 'd'
UNION ALL
SELECT 'comment', o.relname || '.' || d.objsubid, d.description
FROM pg_description AS d JOIN ours AS o ON o.oid = d.objoid AND d.classoid = 'pg_class'::regclass
ORDER BY 1, 2, 3
"""
