-- Run once, when PostgreSQL's volume is new; the database `platform` is there by then.
CREATE DATABASE mlflow;
CREATE DATABASE prefect;
