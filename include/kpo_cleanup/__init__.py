"""Find and delete zombies: pods of the KubernetesPodOperator whose task instance no longer needs them.

The modules, by layer, and within each layer roughly in the order in which a run uses them:

``dag``                            build a DAG of four tasks from settings
``tasks``                          the four tasks
``settings``                       the options
``config``                         where their values come from, and how invalid ones are rejected
``airflow_compat``                 the differences between Airflow 2 and 3
``errors``                         the errors, with cause and remedy as fields
``retry``                          when a request is sent again
``constants``                      names that the code, the README, the UI, logs and tests share
``text``                           plurals, and lines that are not cut off

``kube``                           the Kubernetes API
``kube.interface``                 what the rest of the package uses of it
``kube.client``                    one request, and its errors
``kube.decode``                    from the bytes of a response to JSON
``kube.workloads``                 list, read and delete workloads of any kind

``workloads``                      what operators create, and what is deleted as one object
``workloads.workload``             a workload, reduced to what the cleanup needs
``workloads.kind``                 what the package knows of a kind of workload
``workloads.registry``             the kinds
``workloads.pod``                  pods
``workloads.job``                  Jobs
``workloads.spark_application``    SparkApplications
``workloads.labels``               the labels that operators write
``workloads.parse``                from JSON to fields, for all kinds

``identity``                       a task instance as the labels of its pods identify it
``task_instance``                  what Airflow knows about a task instance
``task_instances``                 look up task instances
``task_instances.interface``       what every source provides
``task_instances.choice``          select the source of a run
``task_instances.verification``    check that a source is this Airflow's and current
``task_instances.sql``             by SQL, from Airflow 2's session or a connection to the metadata database
``task_instances.task_sdk``        by the Task SDK of Airflow 3
``task_instances.sdk_queries``     the queries that the Task SDK of each release supports
``task_instances.dag_files``       the dag_ids in the DAG files on the worker's disk
``task_instances.rest``            by Airflow's REST API
``task_instances.rest_api``        one request to Airflow's REST API
``task_instances.records``         the pods that operators recorded
``task_instances.isolation``       answers about other DAGs if the query for one fails
``task_instances.label_decoding``  the raw ids behind label values

``candidates``                     the records that a run needs, oldest pods first
``classify``                       from a snapshot to verdicts, a pure function
``verdict``                        a verdict, and its evidence as data
``evidence``                       the evidence as phrases for people
``diagnosis``                      why a zombie was left behind, and what prevents the next one
``surge``                          refuse to delete an implausible share of the pods
``reap``                           verify again, delete, account for every pod
``reap.reaper``                    one run: list again, delete in batches, report what is left
``reap.target``                    a pod that may be deleted, and what has been tried so far
``reap.schedule``                  select the next targets, depending on what has failed so far
``reap.pod_logs``                  save the last log lines of a pod
``reap.known``                     the workloads as they were last read
``reap.snapshot``                  query Airflow about a batch, and classify its pods
``reap.deleter``                   verify and delete one pod: conflicts, retries, lost responses
``reap.steps``                     do this for many pods at once, with requests in threads
``reap.ledger``                    a result for every pod, and the log of them
``termination``                    end ``reap`` early on SIGTERM
``results``                        what ``reap`` did with each zombie

``xcom``                           what passes between the tasks
``xcom_retention``                 delete what passed between the tasks of an earlier run
``report``                         what people read in the log
``metrics``                        what goes to Airflow's metrics, for alerts
"""

__version__ = "0.3.0"
